"""A mail server (aiosmtpd) that keeps what it gets: one JSON object per mail, one line each, in a file.

usage: smtp_sink.py PORT FILE [--tls CERT KEY] [--login USER PASSWORD]

With --tls it insists on STARTTLS, with --login on a login. Recipients whose name begins with "nobody" are refused.
"""

import argparse
import asyncio
import json
import ssl
from email import message_from_bytes, policy

from aiosmtpd.smtp import SMTP, AuthResult


class Keep:
    def __init__(self, path):
        self.path = path

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = message_from_bytes(envelope.content, policy=policy.SMTP)
        kept = {
            "from": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "headers": {name.lower(): str(value) for name, value in mail.items()},
            "body": mail.get_content(),
            "tls": session.ssl is not None,
            "login": getattr(session.auth_data, "login", b"").decode(),
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
        return "250 kept"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("file")
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--login", nargs=2)
    args = parser.parse_args()
    options = {}
    if args.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.tls)
        options |= {"tls_context": context, "require_starttls": True}
    if args.login:
        expected = tuple(text.encode() for text in args.login)

        def authenticate(server, session, envelope, mechanism, data):
            known = (data.login, data.password) == expected
            return AuthResult(success=known, handled=known, auth_data=data)

        options |= {
            "authenticator": authenticate,
            "auth_required": True,
            "auth_require_tls": bool(args.tls),
        }
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(Keep(args.file), hostname="sink", enable_SMTPUTF8=True, **options),
        "127.0.0.1",
        args.port,
    )
    await server.serve_forever()


asyncio.run(main())
