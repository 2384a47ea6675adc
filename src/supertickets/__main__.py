import sys

from supertickets.cli import main

sys.exit(main())
