"""How a command comes to its start."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_garbage_collector_rests_while_modules_are_loaded_and_works_from_then_on() -> None:
    program = (
        "import atexit, gc, sys\n"
        "class Loading:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('statepath.store', 'typer'):\n"
        "            print(name, gc.isenabled())\n"
        "sys.meta_path.insert(0, Loading())\n"
        "atexit.register(lambda: print('end', gc.isenabled(), gc.get_freeze_count() > 0))\n"
        "from statepath_command import main\n"
        "sys.argv = ['statepath', 'version']\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second, *_, last = ended.stdout.splitlines()
    assert (first, second) == ("statepath.store False", "typer False")
    assert last == "end True True"
