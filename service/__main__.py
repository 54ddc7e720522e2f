"""`python -m service`: the service with settings from the environment alone; for containers."""

import sys

from pydantic import ValidationError

from service.app import ExitStatus, main
from service.config import ServiceSettings


def _main() -> int:
    try:
        settings = ServiceSettings()
    except ValidationError as error:
        for wrong in error.errors():
            name = ".".join(map(str, wrong["loc"])).upper()
            # Several settings together: the message names them.
            where = f"TOKENSTREAM_{name}" if name else "tokenstream serve"
            print(f"{where}: {wrong['msg']}", file=sys.stderr)
        return ExitStatus.CANNOT_START
    return main(settings)


if __name__ == "__main__":
    sys.exit(_main())
