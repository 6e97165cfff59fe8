"""An authority of one's own, and the certificates that it issues: for a first try of TLS, and for tests."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Days that a certificate holds where none are named.
DAYS = 365
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key (ECDSA, P-256; PKCS #8 without a password), both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority that lives as long as this object: its private key is written nowhere."""

    def __init__(self, name: str = "Topwork self-signed authority", days: float = DAYS) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        key_id = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = _builder(self._name, self._name, self._key, days).add_extension(x509.BasicConstraints(True, 0), True)
        builder = builder.add_extension(_usage("key_cert_sign", "crl_sign"), True).add_extension(key_id, False)
        self._key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
        #: PEM, for those who shall trust it.
        self.certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, hosts: Sequence[str], days: float = DAYS, *, client: bool = False) -> Issued:
        """Issue a certificate for a server of these names and IP addresses, or for a client. ValueError for what is none of
        both."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = _builder(_named(hosts[0][:64]), self._name, key, days).add_extension(x509.BasicConstraints(False, None), True)
        builder = builder.add_extension(_usage("digital_signature"), True).add_extension(x509.ExtendedKeyUsage([purpose]), False)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        signed = builder.add_extension(self._key_id, False).sign(self._key, hashes.SHA256())
        plain = serialization.NoEncryption()
        return Issued(
            signed.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
        )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
    """A certificate that holds from a day before now, since clocks differ, or before its end, until so many days from now."""
    now = datetime.now(UTC)
    begins = now - timedelta(days=1) + min(timedelta(days=days), timedelta(0))
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(begins).not_valid_after(now + timedelta(days=days))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return x509.DNSName(host)


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in names for usage in _USAGES})
