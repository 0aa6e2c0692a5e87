"""Metrics of shared audits, read from outside: a process that is killed leaves nothing behind in them.

    figures         what is measured: names, labels and values
    prometheus      a collector for `prometheus_client`, and the pages `/metrics` and `/healthz`
    opentelemetry   gauges for a meter of OpenTelemetry

The dashboard of Grafana (dashboard.json) and the alert rules of Prometheus (alerts.yml) lie beside these files.
"""
