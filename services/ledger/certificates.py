"""Certificates for NATS: an authority of the installation's own, and what its nodes show.

For those who have no authority of their own; any other certificates do as well. The authority's
key is thrown away once the nodes' certificate is signed: nobody can sign another one.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 3650


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts: whom clients trust, and the nodes' certificate with its private key."""

    ca: bytes
    certificate: bytes
    key: bytes


def make_certificates(hosts: Sequence[str], now: datetime.datetime) -> Certificates:
    """One certificate for all nodes, which are reached by these names or addresses."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = _named("Jobledger NATS authority"), _named("Jobledger NATS")
    until = now + datetime.timedelta(days=DAYS)

    def begun(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(
                ca_name, subject, public, x509.random_serial_number(), now, until
            )
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                critical=False,
            )
        )

    ca = (
        begun(ca_name, ca_key.public_key(), authority=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .sign(ca_key, SHA256())
    )
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    node = (
        begun(name, key.public_key(), authority=False)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
        .sign(ca_key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certificates(ca.public_bytes(Encoding.PEM), node.public_bytes(Encoding.PEM), private)


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
