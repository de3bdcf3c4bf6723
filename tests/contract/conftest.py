"""Makes the broken backends importable (`broken` is a folder, since tests are no packages), and has the servers."""

import sys
from pathlib import Path

from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are

sys.path.insert(0, str(Path(__file__).parent))
