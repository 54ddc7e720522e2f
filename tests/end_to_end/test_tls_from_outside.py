"""TLS and mutual TLS as others see it: the Python client, `openssl s_client` and h2load.

Service (over the scripted engine) and bridge are processes, with certificates made just now.
"""

import asyncio
import re
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Authority, Certified
from tests.processes import bridge, service
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import AsyncClient, ClientOptions, Tls, TokenstreamError

REQUESTS = 200
GENERATE = "/tokenstream.v1.GenerationService/Generate"
STREAM = "/v1/completions/stream"
# How a server ends a handshake; gRPC's TLS 1.3 does so without a word.
REFUSED = re.compile(
    r"alert (certificate required|unknown ca|certificate expired|bad certificate|handshake failure)"
    r"|unexpected eof while reading|errno=104"
)
ONCE = ClientOptions(max_attempts=1)


@dataclass(frozen=True)
class Files:
    """Who is who, as files."""

    folder: Path
    servers: Authority
    clients: Authority

    def write(self, name: str, certified: Certified) -> tuple[str, str]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(certified.certificate)
        key.write_bytes(certified.private_key)
        return str(certificate), str(key)

    def authority(self, name: str) -> str:
        path = self.folder / f"{name}-ca.pem"
        path.write_bytes(getattr(self, name).certificate)
        return str(path)

    def settings(self, *, mutual: bool) -> dict[str, str]:
        """A server's."""
        certificate, key = self.write("server", self.servers.certify("server"))
        files = {"tls_certificate_file": certificate, "tls_private_key_file": key}
        return files | ({"tls_client_ca_file": self.authority("clients")} if mutual else {})

    def strangers(self) -> dict[str, Certified | None]:
        """Whom nobody should let in, and why."""
        return {
            "wrong": Authority().certify("client"),
            "expired": self.clients.certify("client", expired=True),
            "missing": None,
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path, Authority(), Authority())


async def output_of(program: str, *arguments: str, closed_in: bool = True) -> str:
    """Run a program to its end, or for some seconds; returns what it said."""
    assert shutil.which(program) is not None, f"no {program}: scripts/test-tools installs it"
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL if closed_in else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(20 if closed_in else 2):
            while chunk := await process.stdout.read(4096):
                said += chunk
    except TimeoutError:
        pass
    if process.returncode is None:
        process.kill()
    await process.wait()
    return said.decode(errors="replace")


async def s_client(files: Files, address: str, alpn: str, own: Certified | None, tls: str) -> str:
    certificate = () if own is None else files.write("own", own)
    shown = ("-cert", certificate[0], "-key", certificate[1]) if certificate else ()
    return await output_of(
        "openssl",
        "s_client",
        *("-connect", address, "-alpn", alpn, f"-{tls}", "-brief"),
        *("-CAfile", files.authority("servers"), "-verify_return_error"),
        *("-verify_ip", "127.0.0.1"),
        *shown,
        closed_in=False,  # so that it hears what the server says of its certificate
    )


async def h2load(*arguments: str) -> dict[str, int]:
    """What it counted of its requests."""
    said = await output_of("h2load", "-n", str(REQUESTS), "-c", "4", "-T", "5", *arguments)
    found = re.search(r"^requests: (.*)$", said, re.M)
    assert found is not None, said
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", found[1])}


def grpc_load(folder: Path) -> tuple[str, ...]:
    """h2load's arguments for a stream of some tokens."""
    message = pb.GenerateRequest(text="gRPC over TLS").SerializeToString()
    (folder / "request").write_bytes(struct.pack(">BI", 0, len(message)) + message)
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    return ("-m", "10", "-d", str(folder / "request"), *headers)


async def answer(target: str, tls: Tls) -> str:
    async with AsyncClient(target, tls=tls, options=ONCE) as client:
        return "".join([text async for text in client.generate("a secret", timeout=10).text()])


@pytest.mark.timeout(90)
async def test_tls_for_the_client_library_openssl_and_h2load(files: Files) -> None:
    root = Tls(root_certificates=files.servers.certificate)
    async with service(files.folder / "log", **files.settings(mutual=False)) as part:
        address = part.settings["listen"]
        assert await answer(address, root) == "a secret"
        with pytest.raises(TokenstreamError):
            await answer(address, Tls(root_certificates=Authority().certificate))
        for version in ("tls1_2", "tls1_3"):
            said = await s_client(files, address, "h2", None, version)
            assert "Verification: OK" in said, said
        assert "CONNECTION ESTABLISHED" not in await s_client(files, address, "h2", None, "tls1_1")
        counts = await h2load(*grpc_load(files.folder), f"https://{address}{GENERATE}")
        assert (counts["succeeded"], counts["failed"]) == (REQUESTS, 0)


@pytest.mark.timeout(90)
async def test_mutual_tls_lets_in_who_has_a_good_certificate_and_nobody_else(files: Files) -> None:
    def tls(own: Certified | None) -> Tls:
        return Tls(
            root_certificates=files.servers.certificate,
            private_key=None if own is None else own.private_key,
            certificate_chain=None if own is None else own.certificate,
        )

    own = files.clients.certify("client")
    own_files = files.write("bridge", own)
    async with service(files.folder / "log", **files.settings(mutual=True)) as part:
        address = part.settings["listen"]
        assert await answer(address, tls(own)) == "a secret"
        said = await output_of(
            sys.executable,
            *("-m", "tokenstream_cli.main", "generate", "a secret", "--server", address),
            *("--ca-file", files.authority("servers")),
            *("--certificate-file", own_files[0], "--private-key-file", own_files[1]),
        )
        assert said == "a secret\n"
        for version in ("tls1_2", "tls1_3"):
            said = await s_client(files, address, "h2", own, version)
            assert "CONNECTION ESTABLISHED" in said
            assert not REFUSED.search(said), said
        for why, stranger in files.strangers().items():
            with pytest.raises(TokenstreamError) as error:
                await answer(address, tls(stranger))
            assert error.value.code == "UNAVAILABLE", why
            for version in ("tls1_2", "tls1_3"):
                said = await s_client(files, address, "h2", stranger, version)
                assert REFUSED.search(said), (why, version, said)
        counts = await h2load(*grpc_load(files.folder), f"https://{address}{GENERATE}")
        assert counts["succeeded"] == 0, "h2load has no certificate"

        async with bridge(
            files.folder / "bridge.log",
            address,
            upstream_ca_file=files.authority("servers"),
            upstream_certificate_file=own_files[0],
            upstream_private_key_file=own_files[1],
            **files.settings(mutual=True),
        ) as bridged:
            front = bridged.settings["listen"]
            said = await output_of(
                "curl",
                *("-sS", "--cacert", files.authority("servers")),
                *("--cert", own_files[0], "--key", own_files[1]),
                *("-H", "accept: text/plain", f"https://{front}{STREAM}?prompt=mutual"),
            )
            assert said == "mutual"
            for why, stranger in files.strangers().items():
                for version in ("tls1_2", "tls1_3"):
                    said = await s_client(files, front, "http/1.1", stranger, version)
                    assert REFUSED.search(said), (why, version, said)


@pytest.mark.timeout(90)
async def test_https_for_openssl_curl_and_h2load(files: Files) -> None:
    async with (
        service(files.folder / "log") as part,
        bridge(
            files.folder / "bridge.log", part.settings["listen"], **files.settings(mutual=False)
        ) as bridged,
    ):
        front = bridged.settings["listen"]
        for version in ("tls1_2", "tls1_3"):
            said = await s_client(files, front, "http/1.1", None, version)
            assert "Verification: OK" in said, said
        said = await output_of("curl", "-sS", f"https://{front}/healthz")
        assert "certificate" in said, "curl does not know the authority"
        body = files.folder / "body"
        body.write_text('{"prompt": "HTTP over TLS"}')
        counts = await h2load(
            *("--h1", "-d", str(body), "-H", "content-type: application/json"),
            f"https://{front}{STREAM}",
        )
        assert (counts["succeeded"], counts["failed"]) == (REQUESTS, 0)
        assert "Traceback" not in bridged.log.read_text()
