import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.callers import (
    LARGEST_KEY_FILE,
    LONGEST_KEY,
    Caller,
    KeyFileError,
    KeyRing,
    is_tenant,
    key_line,
    new_key,
)

# Fixed: it is in the names of tests, which are the same in every process.
KEY = "ts_kydb_vJt5oQGTbneXI_8p99qbFQjPONKrlwyGCTU0QU"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
TENANTS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)


def ring(*lines: str) -> KeyRing:
    return KeyRing.parse("\n".join(lines), "keys.txt")


def refused(*lines: str) -> str:
    with pytest.raises(KeyFileError) as error:
        ring(*lines)
    return str(error.value)


def test_a_key_is_256_random_bits_that_need_no_quoting() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(len(key) == 46 and key.startswith("ts_") for key in keys)
    assert all(character.isalnum() or character in "-_" for key in keys for character in key)


@given(owners=st.lists(TENANTS, max_size=12), comments=st.booleans())
def test_every_key_of_a_written_file_names_its_tenant(owners: list[str], comments: bool) -> None:
    keys = [new_key() for _ in owners]
    lines = [
        key_line(tenant, key, "spring" if comments else "")
        for tenant, key in zip(owners, keys, strict=True)
    ]
    read = ring("# ours", "", *lines, "")
    assert [read.identify(key) for key in keys] == [Caller(tenant) for tenant in owners]
    assert read.identify(new_key()) is None
    assert sum(read.tenants.values()) == len(owners)
    assert set(read.tenants) == set(owners)


@given(st.text())
def test_any_other_text_is_nobodys_key(presented: str) -> None:
    assert ring(key_line("acme", KEY)).identify(presented) is None


def test_text_that_cannot_be_encoded_is_nobodys_key() -> None:
    assert ring(key_line("acme", KEY)).identify("\ud800") is None


def test_a_key_that_is_wrong_from_any_character_on_is_refused() -> None:
    keys = ring(key_line("acme", KEY))
    for length in range(len(KEY)):
        assert keys.identify(KEY[:length]) is None
        other = "A" if KEY[length] != "A" else "B"
        assert keys.identify(KEY[:length] + other + KEY[length + 1 :]) is None
    assert keys.identify(KEY + "A") is None
    assert keys.identify(KEY) == Caller("acme")


def test_the_hash_itself_is_no_key() -> None:
    keys = ring(key_line("acme", KEY))
    assert keys.identify(HASH) is None
    assert keys.identify(f"sha256:{HASH}") is None


@pytest.mark.parametrize("which", [0, 1, 2, None])
def test_every_entry_is_compared_whichever_matches(
    monkeypatch: pytest.MonkeyPatch, which: int | None
) -> None:
    keys = [new_key() for _ in range(3)]
    read = ring(*(key_line("acme", key) for key in keys))
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    read.identify(new_key() if which is None else keys[which])
    assert [a for a, _ in compared] == [hashlib.sha256(key.encode()).digest() for key in keys]


def test_a_very_long_key_is_refused_before_it_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * (LONGEST_KEY + 1)
    read = ring(key_line("acme", long), key_line("acme", long[1:]))
    assert read.identify(long) is None
    assert read.identify(long[1:]) == Caller("acme")


def test_space_comments_case_and_line_ends_do_not_matter() -> None:
    read = ring("", "  # a comment\r", f"\tacme \t SHA256:{HASH.upper()}#spring\r")
    assert read.identify(KEY) == Caller("acme")


@pytest.mark.parametrize("text", ["", "\n\n", "# nobody yet\n"])
def test_a_file_without_keys_knows_nobody(text: str) -> None:
    read = KeyRing.parse(text, "keys.txt")
    assert read.entries == ()
    assert read.identify(KEY) is None
    assert read.identify("") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("acme", "TENANT sha256:HASH"),
        (f"sha256:{HASH}", "TENANT sha256:HASH"),
        (f"acme sha256:{HASH} spring", "TENANT sha256:HASH"),
        (f"acme {HASH}", "sha256: and 64"),
        (f"acme sha256:{HASH[1:]}", "sha256: and 64"),
        (f"acme sha256:{HASH}0", "sha256: and 64"),
        (f"acme sha256:{HASH[1:]}g", "sha256: and 64"),
        (f"acme sha512:{HASH}", "sha256: and 64"),
        (f"acme sha256: {HASH}", "TENANT sha256:HASH"),
        (f"Acme sha256:{HASH}", "tenant's name"),
        (f".acme sha256:{HASH}", "tenant's name"),
        (f"{'a' * 64} sha256:{HASH}", "tenant's name"),
        (f"acmé sha256:{HASH}", "tenant's name"),
        (f"acme {KEY}", "a key itself"),
        (KEY, "a key itself"),
        (f"{KEY} sha256:{HASH}", "a key itself"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number_and_never_repeated(line: str, words: str) -> None:
    message = refused("# keys", f"other sha256:{'0' * 64}", line)
    assert message.startswith("keys.txt, line 3: ")
    assert words in message
    assert HASH[1:] not in message
    assert KEY not in message


@pytest.mark.parametrize("tenant", ["acme", "other"])
def test_a_key_that_is_there_twice_is_refused_with_both_lines(tenant: str) -> None:
    message = refused(key_line("acme", KEY), "", f"{tenant} sha256:{HASH.upper()}")
    assert message == "keys.txt, line 3: the same key as on line 1"


def test_a_file_that_is_too_large_is_refused() -> None:
    line = "# " + "x" * (LARGEST_KEY_FILE - 3) + "\n"
    assert KeyRing.parse(line, "keys.txt").entries == ()
    assert "larger than" in refused(line, "")


def test_an_entry_shows_no_hash() -> None:
    (entry,) = ring(key_line("acme", KEY)).entries
    assert HASH not in repr(entry)
    assert str(entry.digest) not in repr(entry)


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a" * 64, "a\n", "ä", "a/b", "a#"])
def test_a_bad_tenant_is_not_written(name: str) -> None:
    assert not is_tenant(name)
    with pytest.raises(ValueError, match="tenant"):
        key_line(name, KEY)


def test_a_comment_cannot_begin_a_line_of_its_own() -> None:
    with pytest.raises(ValueError, match="comment"):
        key_line("acme", KEY, f"x\nevil sha256:{HASH}")
