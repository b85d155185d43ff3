"""Reads certificates with a library that shares nothing with ours (Python's `cryptography`).

Standard input: a JSON array of PEM texts. Standard output: for each, an array of what its certificates say, in the form of
the recorded vectors, with `not_after` (seconds since 1970) and `public_key` added. An object {"chain": PEM, "roots": PEM,
"at": seconds} answers null or why the leaf does not verify, by the rules of a SPIFFE verifier (any root, no host name,
exactly one URI); with "library": true it is the library's own verifier that answers, path length included.
"""

import datetime
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification

USAGES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
]


def name(value):
    return ",".join(f"{a.rfc4514_attribute_name}={a.value}" for a in value)


def key(public):
    if isinstance(public, rsa.RSAPublicKey):
        return f"rsa-{public.key_size}"
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.curve.name
    return "ed25519" if isinstance(public, ed25519.Ed25519PublicKey) else type(public).__name__


def extension(found):
    value = found.value
    if isinstance(value, x509.KeyUsage):
        shown = [usage for usage in USAGES if getattr(value, usage)]
    elif isinstance(value, x509.ExtendedKeyUsage):
        shown = [usage._name for usage in value]
    elif isinstance(value, x509.BasicConstraints):
        shown = {"ca": value.ca, "path_length": value.path_length}
    elif isinstance(value, (x509.AuthorityKeyIdentifier, x509.SubjectKeyIdentifier)):
        shown = "<key-id>"
    elif isinstance(value, x509.SubjectAlternativeName):
        kinds = {x509.DNSName: "DNSName", x509.UniformResourceIdentifier: "UniformResourceIdentifier"}
        shown = [f"{kinds.get(type(n), type(n).__name__)}:{n.value}" for n in value]
    elif isinstance(value, x509.UnrecognizedExtension):
        data = value.value
        assert data[0] == 4, "the content is no octet string"
        length, start = data[1], 2
        if length & 0x80:
            count = length & 0x7F
            length, start = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
        assert len(data) == start + length
        shown = json.loads(data[start:])
    else:
        shown = str(value)
    oid = found.oid
    return {
        "critical": found.critical,
        "name": oid._name if oid._name != "Unknown OID" else oid.dotted_string,
        "value": shown,
    }


def show(certificate):
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    signature = certificate.signature_algorithm_oid._name
    assert 0 < certificate.serial_number < 1 << 128, "serial number"
    return {
        "extensions": [extension(e) for e in certificate.extensions],
        "issuer": name(certificate.issuer),
        "key": key(certificate.public_key()),
        "serial": "<serial>",
        "signature": signature,
        "subject": name(certificate.subject),
        "validity_seconds": int(life.total_seconds()),
        "version": certificate.version.name,
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
        "public_key": certificate.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    }


def verify(chain, roots, at):
    at = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    chain = x509.load_pem_x509_certificates(chain.encode())
    roots = x509.load_pem_x509_certificates(roots.encode())
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if len(names.get_values_for_type(x509.UniformResourceIdentifier)) != 1:
        return "the leaf has not exactly one URI"

    def signed(child, parent):
        try:
            child.verify_directly_issued_by(parent)
            return True
        except Exception:
            return False

    def valid(certificate):
        return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc

    path, seen = chain[0], [chain[0]]
    while valid(path):
        if any(signed(path, root) and valid(root) for root in roots):
            return None
        following = [c for c in chain[1:] if c not in seen and signed(path, c)]
        if not following:
            return "no root that is trusted signed it"
        try:
            constraints = following[0].extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            return "an issuer is no authority"
        if not constraints.ca:
            return "an issuer is no authority"
        if constraints.path_length is not None and len(seen) - 1 > constraints.path_length:
            return "the chain is longer than an issuer allows"
        path = following[0]
        seen.append(path)
    return "not valid at that time"


def verify_by_library(chain, roots, at):
    chain = x509.load_pem_x509_certificates(chain.encode())
    roots = x509.load_pem_x509_certificates(roots.encode())
    # What a certificate may be used for and which key identifiers it has differ from the web's rules in Dapr; an
    # authority must still be one, and the leaf must have a name.
    needed = verification.Criticality.AGNOSTIC
    authorities = verification.ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, needed, None)
    leaves = verification.ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, needed, None)
    builder = verification.PolicyBuilder().store(verification.Store(roots))
    builder = builder.time(datetime.datetime.fromtimestamp(at, datetime.timezone.utc).replace(tzinfo=None))
    builder = builder.extension_policies(ca_policy=authorities, ee_policy=leaves)
    try:
        verified = builder.build_client_verifier().verify(chain[0], chain[1:])
    except verification.VerificationError as error:
        return str(error)
    names = [name.value for name in verified.subjects or []]
    return None if len(names) == 1 or names[0].startswith("spiffe://") else f"names: {names}"


answers = []
for item in json.load(sys.stdin):
    if isinstance(item, str):
        answers.append([show(c) for c in x509.load_pem_x509_certificates(item.encode())])
    elif item.get("library"):
        answers.append(verify_by_library(item["chain"], item["roots"], item["at"]))
    else:
        answers.append(verify(item["chain"], item["roots"], item["at"]))
json.dump(answers, sys.stdout)
