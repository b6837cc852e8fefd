"""``python -m lumos``, which is what torchrun starts on every rank."""

import sys

from lumos.cli import main

sys.exit(main())
