"""`python -m service`: the service with settings from the environment alone; for containers."""

import sys

from service.app import main
from service.config import ServiceSettings

if __name__ == "__main__":
    sys.exit(main(ServiceSettings()))
