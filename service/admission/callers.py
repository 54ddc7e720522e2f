"""Who a caller is: API keys, each named by its hash and the tenant it belongs to.

A key file is text, one key a line, `#` begins a comment::

    acme      sha256:0f3a…(64 hex digits)   # the web shop
    acme      sha256:77c1…                  # its next key: a tenant can have several
    research  sha256:d20b…

A key is `ts_` and 256 random bits, made by `new_key`, never chosen by a person. So one unsalted
SHA-256 is enough to keep it: there is nothing to guess, which is what salts and slow hashes make
expensive (NIST SP 800-63B, 5.1.2.2: secrets of at least 112 bits need an approved one-way
function; salt and a key derivation are for those with fewer).

No I/O here; `admission.key_file` reads the file.
"""

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_PREFIX = "ts_"
LONGEST_KEY = 256  # characters; ours have 46
LARGEST_KEY_FILE = 256 * 1024  # bytes: room for 3,000 keys, compared in about 0.2 ms

_KEY_BYTES = 32
_HASH_PREFIX = "sha256:"
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever calls. Its streams are its tenant's; `tenant` is empty where nobody has a key."""

    tenant: str


ANONYMOUS = Caller("")


class KeyFileError(Exception):
    """A key file cannot be used. The operator: mend what the message names; it has no hash."""


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key: the line it is on, from 1, its tenant, and its SHA-256."""

    line: int
    caller: Caller
    digest: bytes = field(repr=False)


class KeyRing:
    """The keys of one version of a key file. At most `LARGEST_KEY_FILE` bytes of them."""

    def __init__(self, entries: tuple[KeyEntry, ...]) -> None:
        self.entries = entries

    @classmethod
    def parse(cls, text: str, source: str) -> "KeyRing":
        """Read a key file's text. `source`: its name, for the messages. May have no keys.

        Raises `KeyFileError` with the number of the first line that is wrong.
        """
        if len(text.encode()) > LARGEST_KEY_FILE:
            raise KeyFileError(f"{source}: larger than {LARGEST_KEY_FILE} bytes")
        entries: dict[bytes, KeyEntry] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            fields = line.partition("#")[0].split()
            if not fields:
                continue
            if wrong := _wrong_with(fields):
                raise KeyFileError(f"{source}, line {number}: {wrong}")
            digest = bytes.fromhex(fields[1].partition(":")[2])
            if digest in entries:
                raise KeyFileError(
                    f"{source}, line {number}: the same key as on line {entries[digest].line}"
                )
            entries[digest] = KeyEntry(number, Caller(fields[0]), digest)
        return cls(tuple(entries.values()))

    def identify(self, key: str) -> Caller | None:
        """Whose key it is; None if it is nobody's, or longer than `LONGEST_KEY`.

        Takes the same time for every key: each entry is compared, in constant time.
        """
        if len(key) > LONGEST_KEY:
            return None
        digest = _digest(key)
        found: Caller | None = None
        for entry in self.entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.caller
        return found

    @property
    def tenants(self) -> Mapping[str, int]:
        """Each tenant's number of keys, in the file's order."""
        return Counter(entry.caller.tenant for entry in self.entries)


def new_key() -> str:
    """Make a key: `ts_` and 43 characters that need no quoting anywhere."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_line(tenant: str, key: str, comment: str = "") -> str:
    """The line of a key file that names a key's tenant, without its newline.

    Raises `ValueError` if the tenant's name is none, or the comment has more than one line.
    """
    if not is_tenant(tenant):
        raise ValueError(TENANT_RULE)
    if not all(map(str.isprintable, comment)):
        raise ValueError("a comment is one line of printable characters")
    line = f"{tenant} {_HASH_PREFIX}{_digest(key).hex()}"
    return f"{line}  # {comment}" if comment else line


TENANT_RULE = (
    "a tenant's name is 1 to 63 of a-z, 0-9, dot, underscore and dash,"
    " and begins with a letter or a digit"
)


def is_tenant(name: str) -> bool:
    """Whether it can be a tenant's name."""
    return _TENANT.fullmatch(name) is not None


def _wrong_with(fields: list[str]) -> str:
    """What is wrong with a line, in words that repeat none of it: it could be a key."""
    if any(_looks_like_a_key(field) for field in fields):
        return "a key itself, not its hash; make a new key: this one has been written down"
    if len(fields) != 2:
        return "must be a tenant and the hash of its key: TENANT sha256:HASH"
    if not is_tenant(fields[0]):
        return TENANT_RULE
    if _HASH.fullmatch(fields[1]) is None:
        return "a hash is sha256: and 64 hex digits"
    return ""


def _looks_like_a_key(field: str) -> bool:
    return field.startswith(KEY_PREFIX) and len(field) > 40


def _digest(key: str) -> bytes:
    # A lone surrogate is no text, and so no key of ours; but it must not raise either.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
