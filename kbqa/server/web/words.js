// The words of the page: [Chinese, English]. A node that shows some remembers which, and follows the language.
// {n} is a value, {n:passage|passages} the word that goes with it, {said} what the service says in English.

import { SAID } from "./said.js";

const WORDS = {
  skip: ["跳到正文", "Skip to the content"],
  nav: ["视图", "Views"],
  ask: ["提问", "Ask"],
  model: ["模型", "Model"],
  documents: ["文档", "Documents"],
  status: ["状态", "Status"],
  language: ["Switch to English", "切换到中文"],
  languageName: ["EN", "中"],
  theme_system: ["外观：跟随系统", "Appearance: as the system"],
  theme_light: ["外观：浅色", "Appearance: light"],
  theme_dark: ["外观：深色", "Appearance: dark"],
  close: ["关闭", "Close"],
  cancel: ["取消", "Cancel"],
  retry: ["重试", "Try again"],
  copy: ["复制", "Copy"],
  copied: ["已复制", "Copied"],
  copyFailed: ["浏览器不允许复制", "The browser does not allow copying"],
  loading: ["正在加载…", "Loading…"],
  more: ["显示更多（还有 {n} 个）", "Show more ({n} left)"],

  // Ask
  askTitle: ["向文档提问", "Ask your documents"],
  askLead: ["“{base}”中有 {n} 个文档。答案只取自文档，每一句都注明出处。",
    "{base} holds {n:document|documents}. Answers come from them alone, and every sentence says where from."],
  askNone: ["“{base}”现在没有可以提问的文档，请在下面换一个知识库。", "{base} has no documents to ask now; choose another base below."],
  askHint1: ["点按答案中的数字，查看原文", "The numbers in an answer open the passage"],
  askHint2: ["可以接着追问：“那满十年的呢？”", "Go on asking: “and after ten years?”"],
  askHint3: ["文档里没有的，会如实说没有", "What the documents do not tell is said so"],
  question: ["问题", "Question"],
  questionHint: ["输入问题，例如：年假有几天？", "Ask a question…"],
  followHint: ["继续追问…", "Go on asking…"],
  send: ["发送", "Send"],
  stop: ["停止", "Stop"],
  base: ["知识库", "Knowledge base"],
  newTalk: ["新对话", "New conversation"],
  you: ["你的问题", "Your question"],
  answer: ["回答", "Answer"],
  searching: ["正在查找相关段落…", "Looking for passages…"],
  thinking: ["模型正在阅读和思考…（{n} 秒）", "The model reads and thinks… ({n} s)"],
  queued: ["模型正在为 {running} 人作答，{waiting} 人排队…（{n} 秒）",
    "The model answers {running} at once, {waiting} are in line… ({n} s)"],
  answered: ["回答完毕，{n} 处引用", "The answer is complete, with {n:citation|citations}"],
  stopped: ["已停止", "Stopped"],
  seconds: ["{n} 秒", "{n} s"],
  sources: ["出处", "Sources"],
  page: ["第 {n} 页", "page {n}"],
  citation: ["引用 {n}：{source}", "Citation {n}: {source}"],
  refusedTitle: ["文档中没有答案", "The documents do not tell"],
  refusedLead: ["“{base}”里没有找到能回答这个问题的内容。可以换个说法、换个知识库，或补充文档。",
    "Nothing in {base} answers this. Try other words, another base, or add documents."],
  verdict_not: ["文档未证实", "not in the documents"],
  verdict_partly: ["部分有据", "partly borne out"],
  doubted: ["有 {n} 句未得到文档证实，已标出。", "{n:sentence|sentences} not borne out by the documents, and marked."],
  good: ["有帮助", "Helpful"],
  bad: ["没有帮助", "Not helpful"],
  thanks: ["谢谢，已记录", "Thank you, noted"],
  whatWrong: ["哪里不对？（可不填）", "What is wrong? (optional)"],
  sendComment: ["提交", "Send"],
  emptyTitle: ["还没有文档", "No documents yet"],
  emptyLead: ["上传制度、手册、合同等文件，就可以用自己的话提问，答案会注明出处。文件只留在这台机器上。",
    "Upload policies, manuals or contracts, and ask in your own words: answers say where they come from. " +
    "The files stay on this machine."],
  emptyReader: ["请管理员添加文档后再来提问。", "Ask whoever looks after this service to add some."],
  emptyGo: ["上传第一批文档", "Upload your first documents"],

  // Citations
  passage: ["原文", "The passage"],
  passageOf: ["引用 {n} / {all}", "Citation {n} of {all}"],
  previous: ["上一处引用", "Previous citation"],
  next: ["下一处引用", "Next citation"],
  inText: ["原文上下文", "In its surroundings"],
  onPage: ["第 {n} 页原貌", "Page {n} as it looks"],
  pageImage: ["{source} 第 {n} 页的图像，引用处已标出", "Page {n} of {source} as an image, the passage marked"],
  pageLoading: ["正在绘制页面…", "Drawing the page…"],
  pageFailed: ["这一页无法显示为图像。", "The page cannot be shown as an image."],
  enlarge: ["放大", "Enlarge"],
  changed: ["文档在回答之后有变动，下面是当时引用的原句。", "The document has changed since; this is what was quoted."],
  downloadFile: ["下载文件", "Download the file"],

  // Model
  modelTitle: ["直接与模型对话", "Talk to the model itself"],
  modelLead: ["这里不查文档，也没有出处：模型说的可能不对。", "No documents and no sources here: the model may be wrong."],
  modelHint: ["对模型说点什么…", "Say something to the model…"],
  noModelTitle: ["没有配置模型", "There is no model"],
  noModelLead: ["现在的回答直接摘自文档（extractive），不需要模型。要与模型对话，请在 config.yaml 中指定一个：",
    "Answers are quoted from the documents (extractive), which needs no model. To talk to one, name it in config.yaml:"],
  settings: ["参数", "Settings"],
  temperature: ["温度", "Temperature"],
  temperatureHint: ["越高越随意，0 为每次相同", "Higher is freer; 0 is the same each time"],
  topP: ["top_p", "top_p"],
  topPHint: ["只在最可能的词里选", "Chooses among the likeliest words alone"],
  length: ["最大长度", "Longest answer"],
  lengthHint: ["回答最多多少个词元", "In tokens"],
  defaults: ["恢复默认", "Defaults"],
  clear: ["清空对话", "Clear"],
  tokens: ["{n} 个词元", "{n:token|tokens}"],
  cutOff: ["已到最大长度，回答没有写完。", "The answer was cut off at the longest length."],

  // Documents
  bases: ["知识库", "Knowledge bases"],
  newBase: ["新建知识库", "New base"],
  baseName: ["名称", "Name"],
  baseNameHint: ["例如：制度", "For example: policies"],
  create: ["创建", "Create"],
  created: ["已创建“{name}”", "{name} was created"],
  rebuild: ["重建", "Rebuild"],
  rebuildWhy: ["用当前设置重新建立“{name}”。完成之前由旧的继续回答。",
    "Builds {name} anew with today's settings. The old one answers until that is done."],
  ingest: ["检查文件夹", "Check folder"],
  ingestWhy: ["收录 knowledge/{name} 中新增或修改的文件，移除已删除的文件。",
    "Takes in what is new or changed in knowledge/{name}, and removes what is gone."],
  deleteBase: ["删除知识库", "Delete base"],
  deleteBrokenWhy: ["“{name}”将不能再提问。", "{name} can no longer be asked."],
  deleteBaseWhy: ["“{name}”及其中 {n} 个文档将不能再提问。", "{name} and its {n:document|documents} can no longer be asked."],
  alsoFiles: ["同时删除 knowledge/{name} 中的原始文件（无法恢复）", "Also delete the files in knowledge/{name} (for good)"],
  filesStay: ["不勾选：文件留在 knowledge/{name}，“{name}”仍列在这里（尚未建立），可以随时重新收录。",
    "Unticked, the files stay in knowledge/{name}; {name} stays in the list (not built yet) and can be taken in again."],
  deleteFilesWhy: ["“{name}”尚未建立，不能提问。knowledge/{name} 中的原始文件将全部删除，无法恢复。",
    "{name} is not built and answers nothing. All files in knowledge/{name} will be deleted for good."],
  deleted: ["已删除“{name}”", "{name} was deleted"],
  deletedKept: ["“{name}”不再用于回答；原始文件仍在 knowledge/{name}", "{name} no longer answers; its files are still in knowledge/{name}"],
  notBuilt: ["尚未建立", "not built yet"],
  notBuiltLead: ["knowledge/{name} 中的文件还没有收录，不能提问。可以“检查文件夹”收录它们，或上传文档；不再需要时，“删除知识库”会删除这些文件。",
    "What lies in knowledge/{name} has not been taken in and answers nothing. “Check folder” takes it in, or upload " +
    "documents; “Delete base” deletes these files."],
  baseStats: ["{documents} 个文档 · {chunks} 个段落 · {size}", "{documents:document|documents} · {chunks:passage|passages} · {size}"],
  count: ["{n} 个文档", "{n:document|documents}"],
  failedCount: ["{n} 个失败", "{n} failed"],
  dropTitle: ["添加文档", "Add documents"],
  dropLead: ["拖到这里或点击选择：PDF、Word、Excel、PPT、网页、邮件、文本等，单个不超过 {mb}\u00a0MB",
    "Drop them here or choose: PDF, Word, Excel, PowerPoint, web pages, mails, text; each up to {mb}\u00a0MB"],
  chooseFiles: ["选择文件", "Choose files"],
  chooseFolder: ["选择文件夹", "Choose a folder"],
  replaceSame: ["覆盖同名文件", "Replace files of the same name"],
  uploads: ["上传", "Uploads"],
  uploadsSum: ["{done} / {total} 已处理", "{done} of {total} done"],
  uploadsFailed: ["，{n} 个未收录", ", {n} not taken in"],
  dismiss: ["收起", "Dismiss"],
  stopUpload: ["停止上传", "Stop"],
  state_waiting: ["等待上传", "waiting"],
  state_sending: ["上传中 {n}%", "uploading {n}%"],
  state_queued: ["已上传，等待读取", "uploaded, waiting"],
  state_reading: ["读取中…", "being read…"],
  state_added: ["已收录", "taken in"],
  state_updated: ["已更新", "updated"],
  state_unchanged: ["没有变化", "unchanged"],
  state_removed: ["已移除", "removed"],
  state_failed: ["未能收录", "failed"],
  state_skipped: ["已跳过", "skipped"],
  state_cancelled: ["已取消", "cancelled"],
  state_rejected: ["未接受", "not accepted"],
  chunks: ["{n} 个段落", "{n:passage|passages}"],
  pages: ["{n} 页", "{n:page|pages}"],
  tooLarge: ["超过 {mb} MB", "larger than {mb} MB"],
  unreadKind: ["不支持 {suffix} 文件", "{suffix} files are not read"],
  nothingDropped: ["没有可以上传的文件", "There is nothing here to upload"],
  filter: ["按名称查找", "Find by name"],
  all: ["全部", "All"],
  failedOnly: ["未能收录", "Failed"],
  noDocuments: ["这个知识库还没有文档。", "This base holds no documents yet."],
  noMatch: ["没有符合的文档。", "No document fits."],
  noBase: ["还没有知识库。上传文档时会自动创建“{name}”。", "There is no base yet. Your first upload creates {name}."],
  name: ["名称", "Name"],
  size: ["大小", "Size"],
  updated: ["更新时间", "Updated"],
  actions: ["操作", "Actions"],
  download: ["下载 {name}", "Download {name}"],
  deleteDocument: ["删除 {name}", "Delete {name}"],
  deleteDocumentTitle: ["删除文档", "Delete the document"],
  deleteDocumentWhy: ["“{name}”及其文件将被删除，不再用于回答。", "{name} and its file will be deleted and no longer answer."],
  delete: ["删除", "Delete"],
  removed: ["已删除 {name}", "{name} was deleted"],
  removing: ["{name} 将在当前任务结束后删除", "{name} goes as soon as the base is free"],
  warnings: ["{n} 处未读", "{n} not read"],
  job_ingest: ["正在收录文档", "Documents are being taken in"],
  job_rebuild: ["正在重建", "The base is being rebuilt"],
  job_remove: ["正在删除文档", "A document is being removed"],
  jobQueued: ["排队中", "waiting its turn"],
  jobProgress: ["{done} / {total}", "{done} of {total}"],
  jobDone: ["完成：{counts}", "Done: {counts}"],
  count_added: ["新增 {n}", "{n} added"],
  count_updated: ["更新 {n}", "{n} updated"],
  count_removed: ["移除 {n}", "{n} removed"],
  count_failed: ["失败 {n}", "{n} failed"],
  count_none: ["没有变化", "nothing has changed"],
  jobCancelled: ["任务已取消", "The job was cancelled"],
  jobFailed: ["任务失败", "The job failed"],
  jobWaits: ["知识库正由别的程序写入，等它完成…", "Another program writes the base; waiting for it…"],
  cancelJob: ["取消任务", "Cancel the job"],
  becauseOf: ["未能收录：", "Failed: "],
  why_encrypted: ["有密码保护，请另存一份不带密码的", "protected by a password; save a copy without one"],
  why_corrupt: ["文件已损坏", "the file is damaged"],
  why_empty: ["文件是空的，没有可读内容", "there is nothing in it to read"],
  why_bomb: ["解压后过大，可能是恶意文件", "unpacks to far too much; it may be hostile"],
  why_timeout: ["读取时间过长", "took too long to read"],
  why_memory: ["读取所需内存过多", "needs too much memory"],
  why_crashed: ["读取程序崩溃，文件可能有问题", "broke the reader; the file may be faulty"],
  why_unsupported: ["不支持这种文件", "a kind of file that is not read"],
  "why_needs-ocr": ["是扫描件或图片，需要文字识别（OCR）", "a scan or picture; it needs text recognition (OCR)"],
  "why_missing-extra": ["读取它需要另外安装组件", "needs a package that is not installed"],
  "why_too-large": ["文件过大", "too large"],
  why_unreadable: ["无法打开文件", "cannot be opened"],
  why_malformed: ["文件内容不符合格式", "not what its name says, or malformed"],
  why_name: ["文件名不能用，请改名", "no file may have this name; rename it"],
  why_hidden: ["是隐藏文件或程序的临时文件", "a hidden file, or a program's own"],
  why_exists: ["已有同名但内容不同的文件；勾选“覆盖同名文件”后重新上传",
    "Another file has this name; tick “Replace files of the same name” and upload again"],
  why_twice: ["与同时上传的另一个文件重名", "another file of this upload has the same name"],
  why_folder: ["与已有的文件或文件夹重名，请改名", "a folder or file in its way has this name; rename it"],
  why_link: ["是一个链接，没有指向这个文件夹里的文件", "a link that leads to no file of this folder"],
  why_gone: ["文件已经不在了", "it was not there any more"],
  why_disk: ["磁盘无法存放它", "the disk cannot take it"],

  // Status
  statusTitle: ["服务状态", "The service"],
  refresh: ["刷新", "Refresh"],
  version: ["版本", "Version"],
  health: ["运行", "Health"],
  ready: ["可以回答", "ready to answer"],
  notReady: ["暂时不能回答", "not ready"],
  generator: ["回答者", "Who answers"],
  extractive: ["直接摘录原文（无模型）", "Quotes the documents (no model)"],
  embedder: ["向量模型", "Embedder"],
  access: ["权限", "Access"],
  scope_read: ["只能提问", "may ask"],
  scope_write: ["可以提问和管理文档", "may ask and change documents"],
  scope_admin: ["全部权限", "everything"],
  local: ["本机，无需密钥", "this machine, no key needed"],
  forgetKey: ["忘记密钥", "Forget the key"],
  api: ["接口文档", "API for programs"],
  passages: ["段落", "Passages"],
  findings: ["自检", "Self-check"],
  allWell: ["一切正常", "All is well"],
  findingsSum: ["{failed} 项失败，{warned} 项需要注意", "{failed} failed, {warned} to look at"],
  fine: ["{n} 项正常", "{n} checks are fine"],
  notes: ["{n} 项可选功能未安装", "{n} optional, not installed"],
  adminOnly: ["自检结果只对拥有全部权限的密钥显示。", "The self-check is shown to keys that may do everything."],
  level_ok: ["正常", "ok"],
  level_note: ["可选", "optional"],
  level_warn: ["注意", "check"],
  level_fail: ["失败", "failed"],

  // Key
  keyTitle: ["需要密钥", "A key is needed"],
  keyLead: ["这个服务需要 API 密钥（kbqa_ 开头）。密钥只保存在这个标签页里，关闭后即忘记。",
    "This service asks for an API key (kbqa_…). It is kept in this tab alone and forgotten when you close it."],
  keyLabel: ["API 密钥", "API key"],
  keyWrong: ["密钥不对、已过期或已撤销，请重新输入。", "That key is wrong, expired or revoked. Try another one."],
  keyOpen: ["进入", "Open"],
  keyOffer: ["输入密钥", "Enter a key"],

  // Errors
  failed: ["出错了", "Something went wrong"],
  offline: ["连接不上服务，请确认它在运行后重试。", "The service cannot be reached. Is it running? Try again."],
  broke: ["回答中断了：与服务的连接已断开。", "The answer broke off: the connection was lost."],
  err_401: ["需要有效的密钥。", "A valid key is needed."],
  err_403: ["这个密钥不能做这件事。", "This key may not do that."],
  err_404: ["没有找到。它可能已被删除。", "Not found. It may have been deleted."],
  err_409: ["已经有了。", "It is there already."],
  err_413: ["内容太大。", "That is too large."],
  err_422: ["请求有误。", "Something is wrong with the request."],
  err_429: ["请求太频繁，请稍候再试。", "Too many requests. Wait a moment."],
  err_500: ["服务内部出错，日志里有原因。", "The service failed; its log says why."],
  err_502: ["模型出错了。", "The model failed."],
  err_503: ["服务正忙，请稍候再试。", "The service is busy. Try again in a moment."],
  err_507: ["磁盘空间不足。", "The disk is full."],
  err_GeneratorBusy: ["模型正忙，排队的人太多，请稍候再试。", "The model is busy and its queue is full. Try again soon."],
  err_IndexMismatch: ["知识库是用别的设置建立的，需要重建后才能提问。",
    "The base was built with other settings and must be rebuilt first."],
  err_KnowledgeBaseBusy: ["知识库正在写入，请稍候再试。", "The base is being written. Try again in a moment."],
  err_UnknownKnowledgeBase: ["没有这个知识库，或尚未建立。", "There is no such base, or it has not been built."],
  err_QuestionError: ["这个问题无法提出：为空或太长。", "The question cannot be asked: it is empty or too long."],
  err_KnowledgeBaseError: ["知识库已损坏，或无法读写。", "The base is damaged, or cannot be read or written."],
  err_UnknownJob: ["没有这个任务，它可能早已结束。", "There is no such job; it may have ended long ago."],
  err_FolderGone: ["文件夹里一个文档也没有了（共享盘可能没有挂载），所以什么也没有改动。",
    "All documents are gone from the folder (is a share not mounted?), so nothing was changed."],
  err_ConfigError: ["设置有误，请联系管理员。", "A setting is wrong; tell whoever looks after this service."],
  err_GeneratorError: ["模型出错了。", "The model failed."],
  err_ModelError: ["模型不能使用，请联系管理员。", "The model cannot be used; tell whoever looks after this service."],
  err_RegistryError: ["服务自己的数据文件（kbqa.sqlite）不能使用，请联系管理员。",
    "The service's own data (kbqa.sqlite) cannot be used; tell whoever looks after it."],
  err_OSError: ["磁盘无法读写。", "The disk cannot be read or written."],
  err_PermissionError: ["没有读写文件的权限。", "Files may not be read or written."],
  err_FileNotFoundError: ["文件或文件夹不见了。", "A file or folder is gone."],
  err_JobFailed: ["处理中途出错。已完成的部分会保留，可以再试一次。", "It broke down halfway. What is done stays; try again for the rest."],
  stuck: ["文件无法删除，可能正被别的程序使用。", "The files cannot be removed; another program may be using them."],
  badName: ["这个名称不能用。只能有文字、数字、空格和 - _ .，以文字或数字开头，不超过 40 个汉字。", "That cannot be a name."],
  err_BeyondModel: ["对话太长，模型放不下。请开始新对话。", "The conversation is too long for the model. Begin a new one."],
};

for (const [key, chinese] of Object.entries(SAID)) WORDS[key] = [chinese, "{said}"];

const listeners = [];
let index = document.documentElement.lang.startsWith("zh") ? 0 : 1;

export const isChinese = () => index === 0;
export const locale = () => (index === 0 ? "zh-CN" : "en");
export const known = (key) => key in WORDS;

export function t(key, values = {}) {
  return WORDS[key][index].replace(/\{(\w+)(?::(\w+)\|(\w+))?\}/g, (_, name, one, many) =>
    one ? `${values[name]} ${String(values[name]) === "1" ? one : many}` : String(values[name] ?? ""));
}

// Remembers on the node what it says, so that `translate` can say it again. `kind`: say, label or hint.
export function mark(node, kind, key, values) {
  node.dataset[kind] = key;
  if (values) node.dataset[`${kind}Values`] = JSON.stringify(values);
  else delete node.dataset[`${kind}Values`];
}

export function translate(root = document) {
  const told = (node, kind) => t(node.dataset[kind], JSON.parse(node.dataset[`${kind}Values`] ?? "{}"));
  for (const node of root.querySelectorAll("[data-say]")) node.textContent = told(node, "say");
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = told(node, "hint");
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", told(node, "label"));
    if (node.matches("button, a")) node.title = told(node, "label");
  }
}

export function setLanguage(chinese) {
  index = chinese ? 0 : 1;
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  translate();
  for (const listener of listeners) listener();
}

export const onLanguage = (listener) => listeners.push(listener);

// --- numbers and dates as the language writes them -------------------------------------------------------------------

export function number(value) {
  return new Intl.NumberFormat(locale()).format(value);
}

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const step = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(count) / 10));
  const value = count / 2 ** (10 * step);
  return `${value < 10 && step ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

export function moment(text) {
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));
}
