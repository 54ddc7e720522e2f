"""Secrets with certificates, in the form that cert-manager makes them."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for this machine."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._sign("authority", self._key, constraint, None)

    def server(self, name: str) -> dict[str, bytes]:
        """The Secret of a server with this name."""
        return self._secret(name, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, name: str) -> dict[str, bytes]:
        """The Secret of a client."""
        return self._secret(name, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _secret(self, name: str, usage: x509.ObjectIdentifier) -> dict[str, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        constraint = x509.BasicConstraints(ca=False, path_length=None)
        return {
            "tls.crt": _pem(self._sign(name, key, constraint, usage)),
            "tls.key": key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            "ca.crt": _pem(self._certificate),
        }

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        constraint: x509.BasicConstraints,
        usage: x509.ObjectIdentifier | None,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(constraint, critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
