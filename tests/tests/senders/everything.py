"""Sends spans, metrics and log records with the OpenTelemetry SDK: PROTOCOL (grpc or http), ENDPOINT, COMPRESSION."""

import logging
import sys

from opentelemetry.sdk.resources import Resource

protocol, endpoint, compression = sys.argv[1:]
if protocol == "grpc":
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    def arguments(_signal):
        gzip = Compression.Gzip if compression == "gzip" else Compression.NoCompression
        return {"endpoint": endpoint, "insecure": True, "compression": gzip}
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def arguments(signal):
        gzip = Compression.Gzip if compression == "gzip" else Compression.NoCompression
        return {"endpoint": f"{endpoint}/v1/{signal}", "compression": gzip}


# What an exporter cannot deliver it only logs.
class Failures(logging.Handler):
    seen = []

    def emit(self, record):
        self.seen.append(record.getMessage())


failures = Failures(level=logging.WARNING)
logging.getLogger("opentelemetry").addHandler(failures)

resource = Resource.create({"service.name": "python", "cloud.region": "eu-test"})

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

tracing = TracerProvider(resource=resource)
tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**arguments("traces"))))
tracer = tracing.get_tracer("test")
for number in range(300):
    with tracer.start_as_current_span("outer", attributes={"number": number, "ok": True, "list": ["a", "b"]}) as span:
        span.add_event("happened", {"why": "test"})

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

reader = PeriodicExportingMetricReader(OTLPMetricExporter(**arguments("metrics")), export_interval_millis=60_000)
metering = MeterProvider(resource=resource, metric_readers=[reader])
meter = metering.get_meter("test")
meter.create_counter("python.counter", unit="1").add(5, {"kind": "a"})
meter.create_up_down_counter("python.level").add(-2)
meter.create_gauge("python.gauge").set(1.5)

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

logs = LoggerProvider(resource=resource)
logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(**arguments("logs"))))
logger = logs.get_logger("test")
for number in range(40):
    logger.emit(body=f"line {number}", severity_number=SeverityNumber.INFO, attributes={"number": number})

for provider in (tracing, metering, logs):
    provider.shutdown()
if failures.seen:
    sys.exit("\n".join(failures.seen))
