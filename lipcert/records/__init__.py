"""Records of certificates: what is written of a certification, what it is about, how it is read back."""

from lipcert.records.format import (
    FORMAT,
    Arithmetic,
    Contents,
    Data,
    FailureProbability,
    Model,
    NormBracket,
    Record,
    Row,
    RowsFile,
    StageTally,
    Totals,
)
from lipcert.records.journal import JOURNAL_NAME, Batch, Journal, StageWork
from lipcert.records.record_files import JSON_NAME, ROWS_NAME, read_record, totals, write_record

__all__ = [
    "FORMAT",
    "JOURNAL_NAME",
    "JSON_NAME",
    "ROWS_NAME",
    "Arithmetic",
    "Batch",
    "Contents",
    "Data",
    "FailureProbability",
    "Journal",
    "Model",
    "NormBracket",
    "Record",
    "Row",
    "RowsFile",
    "StageTally",
    "StageWork",
    "Totals",
    "read_record",
    "totals",
    "write_record",
]
