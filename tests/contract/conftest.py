"""Makes the broken backends importable: `broken` is a folder, since tests are no packages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
