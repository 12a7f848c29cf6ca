"""Everything that can go wrong and that a caller may want to tell apart.

    KbqaError
     ├─ ConfigError          config.yaml, an option or a name is not usable as given
     ├─ DocumentError        one file or document cannot be taken in
     ├─ KnowledgeBaseError   a knowledge base is missing, locked or damaged
     │   ├─ UnknownKnowledgeBase
     │   ├─ KnowledgeBaseBusy
     │   ├─ KnowledgeBaseClosed  while it was asked, as when somebody deletes it
     │   ├─ FolderGone       its documents are all missing at once, as when a share is not mounted
     │   └─ IndexMismatch    built with another embedder, splitter or format
     ├─ RegistryError        vectorstore/kbqa.sqlite, where keys, jobs and feedback are kept, cannot be used
     │   ├─ UnknownJob
     │   ├─ UnknownFeedback
     │   └─ UnknownConversation
     ├─ QuestionError        the question itself cannot be asked
     ├─ Cancelled            nobody waits for the answer any more
     ├─ TuningError          training stopped, or cannot begin
     └─ GeneratorError       the model failed
         ├─ GeneratorBusy    every place in its queue is taken
         └─ ModelError       a model's folder is missing, damaged or not what it is taken for
             └─ BeyondModel  another request might be answered

Every message names the thing and, where there is one, the remedy.
"""

__all__ = [
    "BeyondModel",
    "Cancelled",
    "ConfigError",
    "DocumentError",
    "FolderGone",
    "GeneratorBusy",
    "GeneratorError",
    "IndexMismatch",
    "KbqaError",
    "KnowledgeBaseBusy",
    "KnowledgeBaseClosed",
    "KnowledgeBaseError",
    "ModelError",
    "QuestionError",
    "RegistryError",
    "TuningError",
    "UnknownConversation",
    "UnknownFeedback",
    "UnknownJob",
    "UnknownKnowledgeBase",
]


class KbqaError(Exception):
    """The root: what kbqa raises on purpose. Its text is fit to be shown to a user."""


class ConfigError(KbqaError):
    """A setting, an option or a name is not usable as given."""


class DocumentError(KbqaError):
    """One document cannot be taken in; the others go on.

    `kind` is a word a program can test: encrypted, corrupt, empty, bomb, timeout, memory, crashed, unsupported,
    needs-ocr, missing-extra, too-large, unreadable, malformed. Of a file that is not come to be read also: name (none
    can have such a one), hidden, exists (another of that name), twice (in one upload), folder (where a file should be,
    or the other way round), link, gone, disk (which cannot take it).
    """

    def __init__(self, message: str, kind: str = "malformed") -> None:
        super().__init__(message)
        self.kind = kind


class KnowledgeBaseError(KbqaError):
    """A knowledge base is missing, locked, damaged or cannot be written."""


class UnknownKnowledgeBase(KnowledgeBaseError):
    """No base of that name."""


class KnowledgeBaseBusy(KnowledgeBaseError):
    """Another process is writing to the base."""


class KnowledgeBaseClosed(KnowledgeBaseError):
    """It was closed while it was being asked: it is deleted, or the program ends."""


class FolderGone(KnowledgeBaseError):
    """The folder is gone or empty, and the base would lose all documents that came from it."""


class IndexMismatch(KnowledgeBaseError):
    """The base was built with another embedder, splitter or on-disk format than the one at hand."""


class RegistryError(KbqaError):
    """vectorstore/kbqa.sqlite is damaged, locked, of a newer kbqa or cannot be written."""


class UnknownJob(RegistryError):
    """No job of that id."""


class UnknownFeedback(RegistryError):
    """No feedback of that id that this key may change."""


class UnknownConversation(RegistryError):
    """No conversation, or message of one, of that id that is this key's and user's."""


class QuestionError(KbqaError):
    """The question is empty or too long."""


class Cancelled(KbqaError):
    """Whoever asked has said, from another thread, that the answer is not wanted any more."""


class TuningError(KbqaError):
    """Training cannot begin, or stopped; what it saved before stays."""


class GeneratorError(KbqaError):
    """The model could not answer."""


class GeneratorBusy(GeneratorError):
    """Every place in the generator's queue is taken; try again in a few seconds."""


class ModelError(GeneratorError):
    """A model's folder is missing, damaged, of another family, or asked for what it cannot do."""


class BeyondModel(ModelError):
    """The request is too long for the model, or asks for what it cannot do; another one might be answered."""
