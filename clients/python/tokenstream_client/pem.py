"""Whether what TLS is given in PEM form can be used: gRPC itself says nothing, and fails every
connection, or ends the process.
"""

import ssl
import tempfile
from pathlib import Path
from typing import Final

_NO_CERTIFICATE: Final = "has no certificate in PEM form"
_NO_KEY: Final = "has no private key in PEM form"


class UnusableTls(ValueError):
    """A part of TLS that no connection can be made with.

    Attributes:
        part: ``"root_certificates"``, ``"private_key"`` or ``"certificate_chain"``.
        why: what is wrong with it, to go on from its name; nothing of what is in it.
    """

    def __init__(self, part: str, why: str) -> None:
        super().__init__(f"{part} {why}")
        self.part = part
        self.why = why


def check_pem(roots: bytes | None, private_key: bytes | None, chain: bytes | None) -> None:
    """Raise UnusableTls for authorities, or for a key and its certificate, that cannot be used."""
    if roots is not None:
        _check_certificates("root_certificates", roots)
    if chain is not None:
        _check_certificates("certificate_chain", chain)
    if private_key is None and chain is None:
        return
    if private_key is None:
        raise UnusableTls("certificate_chain", "needs private_key")
    if chain is None:
        raise UnusableTls("private_key", "needs certificate_chain")
    _check_pair(private_key, chain)


def _check_certificates(part: str, content: bytes) -> None:
    # Comments between certificates may be in any language, but OpenSSL takes ASCII here.
    text = content.decode("ascii", "replace").replace("\N{REPLACEMENT CHARACTER}", "?")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ValueError as error:  # for nothing at all
        raise UnusableTls(part, _NO_CERTIFICATE) from error
    except ssl.SSLError as error:
        raise UnusableTls(part, _NO_CERTIFICATE) from error


def _check_pair(private_key: bytes, chain: bytes) -> None:
    def passphrase() -> str:  # or OpenSSL would ask the terminal
        raise UnusableTls("private_key", "needs a passphrase; take one without")

    # OpenSSL takes these two from files only; nobody else can look into this folder.
    with tempfile.TemporaryDirectory() as folder:
        key_file, chain_file = Path(folder, "key"), Path(folder, "chain")
        key_file.write_bytes(private_key)
        chain_file.write_bytes(chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(chain_file, key_file, password=passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UnusableTls("private_key", "is not the key of the certificate") from error
            if error.reason in (None, "PEM_LIB", "NO_START_LINE", "UNSUPPORTED"):
                raise UnusableTls("private_key", _NO_KEY) from error
            # Such as a key that is too short for this machine's policy.
            why = f"cannot be used with its key: {error.reason}"
            raise UnusableTls("certificate_chain", why) from error
