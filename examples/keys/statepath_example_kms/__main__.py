"""Makes a key in the stand-in: `python -m statepath_example_kms NAME`."""

import os
import sys

from statepath_example_kms import FOLDER
from statepath_example_kms.fake import FakeKeyService

FakeKeyService(os.environ[FOLDER]).create(sys.argv[1])
