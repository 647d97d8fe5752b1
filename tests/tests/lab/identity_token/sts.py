"""A security token service: moto's, which believes whoever asks, behind the look at the identity token that AWS takes.

Credentials are given for tokens of the issuer that are for the audience. Every other request must be signed with them.
"""

import io
import math
import sys
import urllib.parse

from moto import settings
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from verify import claims_of
from werkzeug.serving import run_simple
from werkzeug.wrappers import Request, Response

REFUSED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>InvalidIdentityToken</Code><Message>{}</Message></Error></ErrorResponse>"""

port, issuer, audience = sys.argv[1:]
moto = DomainDispatcherApplication(create_backend_app)


def application(environ, start_response):
    body = Request(environ).get_data()
    # It is read a second time, by moto.
    environ["wsgi.input"] = io.BytesIO(body)
    form = urllib.parse.parse_qs(body.decode())
    token = form.get("WebIdentityToken")
    if form.get("Action") == ["AssumeRoleWithWebIdentity"]:
        try:
            claims_of(token[0], issuer, audience)
        except Exception as refused:
            answer = Response(REFUSED.format(type(refused).__name__), status=400, mimetype="text/xml")
            return answer(environ, start_response)
    # It looks at signatures after so many requests: never for one that asks for credentials, which nobody could sign.
    settings.INITIAL_NO_AUTH_ACTION_COUNT = math.inf if token else 0
    return moto(environ, start_response)


run_simple("127.0.0.1", int(port), application)
