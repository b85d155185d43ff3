"""Calls everything of the official Python SDK that the sidecar's building blocks serve.

Runs beside a sidecar without an app (app id py-driver). Its arguments are the gRPC addresses of a further sidecar, to
be shut down, and of the FastAPI app's sidecar.
"""

import sys
import warnings

# Parts of the SDK warn about themselves (deprecated calls); those are served as well.
warnings.simplefilter("ignore")

from dapr.clients import DaprClient  # noqa: E402
from dapr.clients.health import DaprHealth  # noqa: E402

import driver_async  # noqa: E402,F401
import driver_blocks  # noqa: E402,F401
import driver_invoke  # noqa: E402,F401
import driver_pubsub  # noqa: E402,F401
import driver_state  # noqa: E402,F401
from checks import check, equal, eventually, run  # noqa: E402


@check("health: wait_for_sidecar, wait")
def _(client):
    DaprHealth.wait_for_sidecar()
    client.wait(5)


@check("metadata: get and set")
def _(client):
    client.set_metadata("colour", "deep blue")
    metadata = client.get_metadata()
    equal(metadata.application_id, "py-driver")
    equal(metadata.extended_metadata["colour"], "deep blue")
    found = {one.name: (one.type, one.version) for one in metadata.registered_components}
    equal(found["statestore"], ("state.sqlite", "v1"))
    equal(found["pubsub"], ("pubsub.redis", "v1"))
    store = next(one for one in metadata.registered_components if one.name == "statestore")
    for capability in ("ETAG", "TRANSACTIONAL", "TTL"):
        assert capability in store.capabilities, store.capabilities


@check("secrets: one, all, and a missing one")
def _(client):
    equal(dict(client.get_secret("secrets", "plain").secret), {"plain": "hush"})
    equal(dict(client.get_secret("secrets", "nested:inner").secret), {"nested:inner": "deep"})
    every = client.get_bulk_secret("secrets").secrets
    equal(every["plain"], {"plain": "hush"})
    equal(every["nested:inner"], {"nested:inner": "deep"})
    for store, key in (("secrets", "missing"), ("no-such-store", "plain")):
        try:
            client.get_secret(store, key)
        except Exception as error:
            assert key in str(error) or store in str(error), error
        else:
            raise AssertionError(f"{store}/{key} was found")


@check("shutdown ends a sidecar")
def _(client):
    with DaprClient(sys.argv[1]) as other:
        equal(other.get_metadata().application_id, "py-ending")
        other.shutdown()

        def gone():
            try:
                other.get_metadata()
            except Exception:
                return True
            return False

        eventually(gone, "end of the sidecar")


with DaprClient() as dapr:
    run(dapr)
