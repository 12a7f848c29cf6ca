"""How good are the parts? Measured on questions whose answers are known, through the very parts that answer users.

For each of retrieval, fusion, answers, refusal and support: `evaluate_...(folder, open_base)` makes a base of the
folder's documents and measures, `measure_...(kb, benchmark)` measures on a base that is open already.
"""

from kbqa.evaluation.answers import AnswersReport, Comparison, ask_all, evaluate_answers, measure_answers
from kbqa.evaluation.benchmark import Benchmark, Question, load_benchmark, opened
from kbqa.evaluation.fusion import FusionReport, FusionScores, evaluate_fusion, measure_fusion
from kbqa.evaluation.refusal import RefusalReport, evaluate_refusal, measure_refusal
from kbqa.evaluation.replies import Reply
from kbqa.evaluation.retrieval import ArmScores, RetrievalReport, evaluate_retrieval, measure_retrieval
from kbqa.evaluation.support import Case, SupportReport, evaluate_support, measure_support, support_cases
from kbqa.evaluation.table import load_questions, located

__all__ = [
    "AnswersReport",
    "ArmScores",
    "Benchmark",
    "Case",
    "Comparison",
    "FusionReport",
    "FusionScores",
    "Question",
    "RefusalReport",
    "Reply",
    "RetrievalReport",
    "SupportReport",
    "ask_all",
    "evaluate_answers",
    "evaluate_fusion",
    "evaluate_refusal",
    "evaluate_retrieval",
    "evaluate_support",
    "load_benchmark",
    "load_questions",
    "located",
    "measure_answers",
    "measure_fusion",
    "measure_refusal",
    "measure_retrieval",
    "measure_support",
    "opened",
    "support_cases",
]
