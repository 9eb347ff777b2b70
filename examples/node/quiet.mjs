/** Switches off ONNX Runtime's usage reports; import it before onnxruntime-node. */

process.env.ORT_DISABLE_TELEMETRY ??= "1";
