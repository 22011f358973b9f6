"""A worker process: see `reward_service/worker.py`."""

import sys

from reward_service.worker import main

if __name__ == "__main__":
    sys.exit(main())
