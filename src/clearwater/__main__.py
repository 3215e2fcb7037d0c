"""`python -m clearwater` is the command `clearwater`."""

from clearwater.cli import main

main()
