"""Asks a CA for certificates over gRPC, and reads what it gives: with grpcio, its own stubs and `cryptography`.

    ca_client.py secret DIRECTORY         makes a root (RSA) and an intermediate below it, as Istio's secret has them
    ca_client.py ask PROTO < REQUEST      asks, prints what came as JSON

Knows nothing of ztun but the wire format in PROTO.
"""

import datetime
import json
import os
import sys
import tempfile

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from google.protobuf import json_format
from grpc_tools import protoc


def stubs(proto):
    """The generated modules of a proto file."""
    directory = tempfile.mkdtemp()
    with open(os.path.join(directory, "ca.proto"), "w") as file:
        file.write(proto)
    # Else grpc_tools looks for google/protobuf by itself, as its command line does.
    includes = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    arguments = ["protoc", f"-I{directory}", f"-I{includes}"]
    arguments += [f"--python_out={directory}", f"--grpc_python_out={directory}", "ca.proto"]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, directory)
    import ca_pb2
    import ca_pb2_grpc

    return ca_pb2, ca_pb2_grpc


def signing_request(key, names):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=True)
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def certificates(pem):
    end = "-----END CERTIFICATE-----\n"
    return [x509.load_pem_x509_certificate((part + end).encode()) for part in pem.split(end) if part.strip()]


def is_signed_by(certificate, issuer):
    key, algorithm = issuer.public_key(), certificate.signature_hash_algorithm
    arguments = [ec.ECDSA(algorithm)] if isinstance(key, ec.EllipticCurvePublicKey) else [padding.PKCS1v15(), algorithm]
    key.verify(certificate.signature, certificate.tbs_certificate_bytes, *arguments)
    return certificate.issuer == issuer.subject


def extension(certificate, kind):
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def facts(certificate):
    names = extension(certificate, x509.SubjectAlternativeName)
    usage = extension(certificate, x509.KeyUsage)
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    constraints = extension(certificate, x509.BasicConstraints)
    known = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    known += ["key_agreement", "key_cert_sign", "crl_sign"]
    return {
        "version": certificate.version.name,
        "serial": format(certificate.serial_number, "x"),
        "subject": certificate.subject.rfc4514_string(),
        "names": [f"{type(name).__name__}:{name.value}" for name in names.value] if names else [],
        "namesCritical": bool(names and names.critical),
        "keyUsage": [name for name in known if getattr(usage.value, name)] if usage else [],
        "purposes": sorted(purpose._name for purpose in purposes.value) if purposes else [],
        "ca": bool(constraints and constraints.value.ca),
        "notBefore": certificate.not_valid_before.timestamp(),
        "seconds": (certificate.not_valid_after - datetime.datetime.utcnow()).total_seconds(),
        "authorityKey": extension(certificate, x509.AuthorityKeyIdentifier) is not None,
    }


def ask(proto, asked):
    messages, services = stubs(proto)
    key = ec.generate_private_key(ec.SECP256R1())
    credentials = grpc.ssl_channel_credentials(asked["root"].encode())
    request = messages.IstioCertificateRequest(
        csr=signing_request(key, asked["names"]), validity_duration=asked["seconds"]
    )
    if asked["identity"]:
        json_format.ParseDict({"ImpersonatedIdentity": asked["identity"]}, request.metadata)
    metadata = [("authorization", "Bearer " + asked["token"]), ("clusterid", "Kubernetes")]
    with grpc.secure_channel(asked["address"], credentials) as channel:
        stub = services.IstioCertificateServiceStub(channel)
        try:
            answer = stub.CreateCertificate(request, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return {"code": error.code().name, "details": error.details()}
    *shown, roots = [certificates(element) for element in answer.cert_chain]
    shown = sum(shown, [])
    path = shown + [root for root in roots if root.subject == shown[-1].issuer][:1]
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    der = lambda public: public.public_bytes(serialization.Encoding.DER, spki)
    return {
        "code": "OK",
        "elements": list(answer.cert_chain),
        "chain": [facts(certificate) for certificate in path],
        "roots": len(roots),
        "signed": len(path) == len(shown) + 1 and all(map(is_signed_by, path, path[1:] + path[-1:])),
        "ownKey": der(shown[0].public_key()) == der(key.public_key()),
    }


def secret(directory):
    def certificate(name, key, issuer, issuer_key, path_length):
        now = datetime.datetime.utcnow()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )

    def write(name, *contents):
        descriptor = os.open(os.path.join(directory, name), os.O_CREAT | os.O_WRONLY, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(contents)

    root_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    root = certificate("Root", root_key, None, root_key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    intermediate = certificate("Intermediate", key, root.subject, root_key, 0)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write("ca-key.pem", key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    write("cert-chain.pem", intermediate.public_bytes(pem), root.public_bytes(pem))
    write("root-cert.pem", root.public_bytes(pem))


if __name__ == "__main__":
    if sys.argv[1] == "secret":
        secret(sys.argv[2])
    else:
        print(json.dumps(ask(open(sys.argv[2]).read(), json.load(sys.stdin))))
