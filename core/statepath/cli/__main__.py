"""`python -m statepath.cli`, where the console script is not on the path."""

from statepath_command import main

main()
