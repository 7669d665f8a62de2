"""Prints the private key of a PKCS #12 file as PEM; Java's keytool does not. A process's work."""

from __future__ import annotations

import base64
import os
import sys
import textwrap

from pyflink.java_gateway import get_gateway

from operators.java import java_home


def main(store: str, password: str) -> None:
    os.environ["JAVA_HOME"] = str(java_home())
    gateway = get_gateway()
    java = gateway.jvm.java
    secret = gateway.new_array(gateway.jvm.char, len(password))
    for place, letter in enumerate(password):
        secret[place] = letter
    keys = java.security.KeyStore.getInstance("PKCS12")
    keys.load(java.io.FileInputStream(store), secret)
    key = keys.getKey(keys.aliases().nextElement(), secret)
    pkcs8 = java.lang.Class.forName("java.security.spec.PKCS8EncodedKeySpec")
    spec = java.security.KeyFactory.getInstance("EC").getKeySpec(key, pkcs8)
    lines = textwrap.wrap(base64.b64encode(spec.getEncoded()).decode(), 64)
    print("\n".join(["-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
