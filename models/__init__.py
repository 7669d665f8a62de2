"""What is trained and served, and how it is judged; nothing here knows Flink."""

import os

# ONNX Runtime's packages send its makers a line for each machine, model and failure, with an id
# of the machine, unless they are told not to before they are loaded (its docs/Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
