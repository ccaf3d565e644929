"""`python -m auth_service.cli`."""

import sys

from . import main

sys.exit(main())
