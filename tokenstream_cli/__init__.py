"""The command line of all parts: `tokenstream serve | gateway | up | generate | keys`."""
