"""`tokenstream COMMAND …`: finds the command; each loads only what it needs."""

import sys
from collections.abc import Callable, Sequence

from tokenstream_cli.settings import USAGE_ERROR

_HELP = """\
usage: tokenstream COMMAND [--config FILE] [options]

  serve      the gRPC service, with vLLM
  gateway    the bridge for browsers: server-sent events and a page
  up         both
  generate   send one prompt to a service and print the answer as it comes
  keys       make, list and remove the API keys of a service
  health     how the service or the bridge on this machine is, for checks of containers

`tokenstream COMMAND --help` lists a command's options. Those of serve and gateway are also
environment variables (TOKENSTREAM_…, for the gateway TOKENSTREAM_GATEWAY_…) and keys of the YAML
file that --config or TOKENSTREAM_CONFIG names (sections `service` and `gateway`)."""


def _serve(argv: Sequence[str]) -> int:
    from service.app import main as serve
    from service.config import ServiceSettings
    from tokenstream_cli.environment import warn_of_unknown_variables
    from tokenstream_cli.settings import load

    warn_of_unknown_variables("serve")
    return serve(load(ServiceSettings, command="serve", section="service", argv=argv))


def _gateway(argv: Sequence[str]) -> int:
    from gateway_sse.config import GatewaySettings
    from gateway_sse.server import main
    from tokenstream_cli.environment import warn_of_unknown_variables
    from tokenstream_cli.settings import load

    warn_of_unknown_variables("gateway")
    settings = load(GatewaySettings, command="gateway", section="gateway", argv=argv)
    return main(settings)


def _up(argv: Sequence[str]) -> int:
    from tokenstream_cli.up import main as up

    return up(argv)


def _generate(argv: Sequence[str]) -> int:
    from tokenstream_cli.generate import main as generate

    return generate(argv)


def _keys(argv: Sequence[str]) -> int:
    from tokenstream_cli.keys import main as keys

    return keys(argv)


def _health(argv: Sequence[str]) -> int:
    from tokenstream_cli.health import main as health

    return health(argv)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": _serve,
    "gateway": _gateway,
    "up": _up,
    "generate": _generate,
    "keys": _keys,
    "health": _health,
}


def main() -> None:
    """Entry point of the `tokenstream` program."""
    argv = sys.argv[1:]
    if argv and argv[0] in _COMMANDS:
        sys.exit(_COMMANDS[argv[0]](argv[1:]))
    if argv and argv[0] in ("-h", "--help", "help"):
        print(_HELP)
        sys.exit(0)
    if argv and argv[0] == "--version":
        from importlib.metadata import version

        print(f"tokenstream {version('tokenstream')}")
        sys.exit(0)
    if argv:
        print(f"unknown command: {argv[0]}", file=sys.stderr)
    print(_HELP, file=sys.stderr)
    sys.exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
