"""Makes a key in the stand-in: `python -m statepath_example_kms NAME`."""

import os
import sys

from statepath_example_kms import FOLDER
from statepath_example_kms.fake import FakeKeyService

if len(sys.argv) != 2 or FOLDER not in os.environ:
    sys.exit(f"usage: {FOLDER}=FOLDER python -m statepath_example_kms NAME")
try:
    FakeKeyService(os.environ[FOLDER]).create(sys.argv[1])
except FileExistsError:
    sys.exit(f"there is a key {sys.argv[1]} already, and it is kept: what it wrapped needs it")
