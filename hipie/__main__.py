"""`python -m hipie`: the console command `hipie`."""

import sys

from hipie.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
