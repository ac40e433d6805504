"""What a log costs: a price book, formulas, the meter's bill and the model's forecast.

report = cost_report(usage, load_book(), "aws-us-east-1", Deployment(replicas=3, zones=3))
report.rows, report.dollars.total, report.per_pb(report.dollars.storage), report.explain(), report.to_json()
"""

from tiering.cost.book import PriceBook, load_book
from tiering.cost.model import Design, Workload, forecast
from tiering.cost.report import CostRow, Deployment, Report, TopicUsage, Usage, cost_report

__all__ = [
    "CostRow", "Deployment", "Design", "PriceBook", "Report", "TopicUsage", "Usage", "Workload", "cost_report", "forecast", "load_book",
]  # fmt: skip
