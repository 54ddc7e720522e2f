"""Secrets with certificates, in the form that cert-manager makes them."""

from tests.certificates import Authority


def secret_of(authority: Authority, host: str) -> dict[str, bytes]:
    """The keys and values of one's Secret, server or client."""
    made = authority.certify(host, host=host)
    return {
        "tls.crt": made.certificate,
        "tls.key": made.private_key,
        "ca.crt": authority.certificate,
    }
