"""An HTTP app on Flask with the SDK's extension."""

import os

from dapr.ext.flask import DaprApp
from flask import Flask, jsonify, request

app = Flask("flask-app")
dapr_app = DaprApp(app)
received = []


@app.route("/hello/<name>", methods=["GET", "POST"])
def hello(name):
    return jsonify({"hello": name, "body": request.get_data(as_text=True)})


@app.get("/received")
def get_received():
    return jsonify(received)


@dapr_app.subscribe("pubsub", "py-flask")
def on_event():
    received.append(request.get_json(force=True))
    return jsonify({"status": "SUCCESS"})


app.run(host="127.0.0.1", port=int(os.environ["APP_PORT"]), threaded=True)
