"""Who signs. In: the user's own certificate, or none. Out: files of a certificate chain and its key.

A certificate that nobody gave is made once on this machine: whoever reads the film learns that it was not changed since, and by whom only as
far as he trusts this machine. Source: C2PA specification, 14.5 (certificate profile).
"""

import datetime
import os
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.errors import ResourceError, UsageError
from musetalk_cli.places import data_folder
from musetalk_cli.work import disk_fault, sync

CHAIN, KEY = "chain.pem", "key.pem"
YEARS = 10
ORGANIZATION = "musetalk, self-signed"
STUDIO_CURE = "give both --sign-cert and --sign-key, as PEM: the signer's certificate first, then those above it"


class Identity(NamedTuple):
    """PEM files: the signer's certificate and those above it; its private key."""

    chain: Path
    key: Path


def identity(cert: Path | None, key: Path | None) -> Identity:
    """The given one, or this machine's own, made where there is none yet. Raises UsageError for half a pair or a file that is none,
    ResourceError where the machine's own cannot be kept."""
    if (cert is None) != (key is None):
        raise UsageError("only one of certificate and key", STUDIO_CURE, thing="--sign-cert")
    if cert is not None and key is not None:
        algorithm(Identity(cert, key))
        return Identity(cert, key)
    return _own()


def own_anchor() -> str:
    """PEM of this machine's own authority; "" where none was ever made, or it is damaged: that says nothing about a film."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    path = _folder() / CHAIN
    if not path.is_file():
        return ""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[-1].public_bytes(Encoding.PEM).decode()
    except (OSError, ValueError, IndexError):
        return ""


def algorithm(who: Identity) -> str:
    """C2PA's name of the signature that this key makes. Raises UsageError for files that hold no certificate or no fitting key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    own = who.chain.parent == _folder()
    cure = f"delete {_folder()}: another one is made" if own else STUDIO_CURE
    try:
        key = serialization.load_pem_private_key(who.key.read_bytes(), None)
        first = x509.load_pem_x509_certificates(who.chain.read_bytes())[0]
    except (OSError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, OSError) and (fault := disk_fault(error, who.chain.parent)) is not None:
            raise fault from error
        raise UsageError(f"{who.chain}, {who.key}: {error}", cure, thing="the certificate" if own else "--sign-cert") from error
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*spki) != key.public_key().public_bytes(*spki):
        raise UsageError(f"{who.key}: not the key of {who.chain}", STUDIO_CURE, thing="--sign-key")
    match key:
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
        case ec.EllipticCurvePrivateKey() if key.curve.key_size in (256, 384, 521):
            return {256: "es256", 384: "es384", 521: "es512"}[key.curve.key_size]
        case rsa.RSAPrivateKey():
            return "ps256"
    raise UsageError(f"{who.key}: C2PA has no signature of this kind", "use Ed25519, P-256 or RSA", thing="--sign-key")


def key_bytes(who: Identity) -> bytes:
    """PEM of the key as PKCS 8, the only form that c2pa reads: `openssl ecparam` and `genrsa` write others."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(who.key.read_bytes(), None)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _folder() -> Path:
    return data_folder() / "identity"


def _own() -> Identity:
    folder = _folder()
    who = Identity(folder / CHAIN, folder / KEY)
    if who.chain.is_file() and who.key.is_file():
        return who
    made = folder.with_name(f".{folder.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        made.mkdir(parents=True, mode=0o700)
        chain, key = _new_pair()
        (made / CHAIN).write_bytes(chain)
        with os.fdopen(os.open(made / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
        for path in (made / CHAIN, made / KEY, made):
            sync(path)
        os.rename(made, folder)
        sync(folder.parent)
    except OSError as error:
        if not who.key.is_file():  # else another process was first, and wins
            cure = "make it writable, set XDG_DATA_HOME elsewhere, or give --sign-cert and --sign-key"
            raise ResourceError(f"{folder}: the certificate cannot be kept ({error.strerror})", cure) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    for path in folder.parent.glob(f".{folder.name}.*"):  # of processes that were killed in the middle of it
        shutil.rmtree(path, ignore_errors=True)
    return who


def _new_pair() -> tuple[bytes, bytes]:
    """PEM of a signer's certificate and of the authority above it, whose key is forgotten; PEM of the signer's key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION), x509.NameAttribute(NameOID.COMMON_NAME, common)]
        )

    def usage(*, signs: bool) -> x509.KeyUsage:
        return x509.KeyUsage(signs, False, False, False, False, not signs, not signs, False, False)

    above, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    host = socket.gethostname()[:40]
    authority, signer = name(f"musetalk authority of {host}"), name(f"musetalk on {host}")
    begins = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(days=1)
    ends = begins + datetime.timedelta(days=365 * YEARS)

    def begun(subject: x509.Name, public: Ed25519PrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False)
        )

    root = begun(authority, above).add_extension(x509.BasicConstraints(True, 0), critical=True)
    root = root.add_extension(usage(signs=False), critical=True)
    leaf = begun(signer, key).add_extension(x509.BasicConstraints(False, None), critical=True)
    leaf = leaf.add_extension(usage(signs=True), critical=True)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    pem = serialization.Encoding.PEM
    chain = leaf.sign(above, None).public_bytes(pem) + root.sign(above, None).public_bytes(pem)
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return chain, secret
