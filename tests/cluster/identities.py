"""Who is who in the cluster: its certificate authority, certificates and kubeconfigs. Owns `folder/pki`."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.network import CONTROL_IP
from tests.cluster.processes import run

API_SERVICE_IP = "10.96.0.1"
API_URL = f"https://{CONTROL_IP}:6443"
_ELLIPTIC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = "3650"


@dataclass(frozen=True)
class Identities:
    """Keys, certificates and kubeconfigs below `folder`."""

    folder: Path

    @property
    def pki(self) -> Path:
        """Keys and certificates: `ca`, `accounts`, and one pair a name."""
        return self.folder / "pki"

    def make_authority(self) -> None:
        """The certificate authority and the key of service accounts, once."""
        if (self.pki / "accounts.pub").exists():
            return
        self.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
        uses = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        extensions = [word for use in uses for word in ("-addext", use)]
        names = ("-subj", "/CN=tessera-cluster", "-days", _DAYS, "-keyout", "ca.key", "-out", "ca.crt")
        self._openssl("req", "-x509", *_ELLIPTIC, *names, *extensions)
        self._openssl("genrsa", "-out", "accounts.key", "2048")
        self._openssl("rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")

    def certify(self, name: str, common_name: str, group: str = "", addresses: str = "") -> None:
        """A key and a certificate for one participant, once."""
        if (self.pki / f"{name}.crt").exists():
            return
        subject = (f"/O={group}" if group else "") + f"/CN={common_name}"
        self._openssl("req", *_ELLIPTIC, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        words = "extendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        words += f"subjectAltName={addresses}\n" if addresses else ""
        (self.pki / f"{name}.ext").write_text(words, encoding="utf-8")
        authority = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", _DAYS)
        files = ("-in", f"{name}.csr", "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        self._openssl("x509", "-req", *authority, *files)

    def certify_server(self) -> None:
        """The API server's own certificate, for every name that it has."""
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        dns = [f"DNS:{name}" for name in (*names, "kubernetes.default.svc.cluster.local")]
        ips = [f"IP:{ip}" for ip in (CONTROL_IP, "127.0.0.1", API_SERVICE_IP)]
        self.certify("apiserver", "kube-apiserver", addresses=",".join(dns + ips))

    def kubeconfig(self, name: str, common_name: str, group: str = "") -> Path:
        """A file with which a program acts as `common_name` of `group`."""
        self.certify(name, common_name, group)
        path = self.folder / f"{name}.kubeconfig"
        cluster = {"server": API_URL, "certificate-authority": str(self.pki / "ca.crt")}
        user = {"client-certificate": str(self.pki / f"{name}.crt"), "client-key": str(self.pki / f"{name}.key")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "cluster",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": name}}],
        }
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        return path

    def _openssl(self, *arguments: str) -> None:
        run(("sh", "-c", 'cd "$0" && exec openssl "$@"', self.pki, *arguments))
