"""How good are the parts? Measured on questions whose answers are known, through the very parts that answer users."""

from kbqa.evaluation.benchmark import Benchmark, Question, load_benchmark
from kbqa.evaluation.retrieval import ArmScores, RetrievalReport, evaluate_retrieval
from kbqa.evaluation.support import Case, SupportReport, evaluate_support, support_cases

__all__ = [
    "ArmScores",
    "Benchmark",
    "Case",
    "Question",
    "RetrievalReport",
    "SupportReport",
    "evaluate_retrieval",
    "evaluate_support",
    "load_benchmark",
    "support_cases",
]
