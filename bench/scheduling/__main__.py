"""Run the comparison from the command line."""

import sys

from bench.scheduling.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
