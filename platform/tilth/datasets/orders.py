"""Names of what the child that reads files is told and answers; apart from it, so that DuckDB stays out of web."""

ORDER, ANSWER = "order.json", "answer.json"
