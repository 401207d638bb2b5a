"""Verifies requests with other people's code: `standardwebhooks` and PyJWT, both with their default settings.

One JSON object a line comes in, one goes out; `src/verifier.rs` says what is in them.
"""

import base64
import json
import sys

import jwt
from standardwebhooks import Webhook


def signature(request):
    Webhook(request["secret"]).verify(base64.b64decode(request["body"]), request["headers"])


def token(request):
    key = base64.b64decode(request["secret"].removeprefix("whsec_"))
    return jwt.decode(request["token"], key, algorithms=["HS256"], audience=request["audience"])


def check(what, request):
    try:
        return {"claims": what(request)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    request = json.loads(line)
    answer = {"signature": check(signature, request), "token": check(token, request)}
    print(json.dumps(answer), flush=True)
