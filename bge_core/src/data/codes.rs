//! The stable codes of findings about data: appended, never renamed.

/// The JSON of a line cannot be read.
pub const BROKEN_JSON: &str = "data.broken_json";
/// A line holds JSON that is not an object.
pub const NOT_OBJECT: &str = "data.not_object";
/// A JSON array is damaged between its elements.
pub const BROKEN_ARRAY: &str = "data.broken_array";
/// Bytes that are not UTF-8.
pub const INVALID_UTF8: &str = "data.invalid_utf8";
/// The file begins with a byte order mark.
pub const BYTE_ORDER_MARK: &str = "data.byte_order_mark";
/// Lines end in CR LF.
pub const CRLF: &str = "data.crlf";
/// A record over the length limit.
pub const LINE_TOO_LONG: &str = "data.line_too_long";
/// A record that is suspiciously long.
pub const LINE_LONG: &str = "data.line_long";
/// The file has no records.
pub const FILE_EMPTY: &str = "data.file_empty";
/// A field has the wrong type.
pub const WRONG_TYPE: &str = "data.wrong_type";
/// A known key occurs twice in a row.
pub const KEY_REPEATED: &str = "data.key_repeated";
/// A column that bge does not know.
pub const UNKNOWN_COLUMN: &str = "data.unknown_column";
/// `query` is missing.
pub const QUERY_MISSING: &str = "data.query_missing";
/// `query` is empty or white space.
pub const QUERY_BLANK: &str = "data.query_blank";
/// `pos` is missing or an empty list.
pub const POS_MISSING: &str = "data.pos_missing";
/// A positive is empty or white space.
pub const POS_BLANK: &str = "data.pos_blank";
/// A row without negatives where negatives are needed.
pub const NEG_EMPTY: &str = "data.neg_empty";
/// No row has negatives: only in-batch negatives are used.
pub const NEG_EMPTY_EVERYWHERE: &str = "data.neg_empty_everywhere";
/// A negative is empty or white space.
pub const NEG_BLANK: &str = "data.neg_blank";
/// Rows with fewer negatives than a group needs: some are repeated.
pub const NEG_FEW: &str = "data.neg_few";
/// A text that is both positive and negative in one row.
pub const POS_IS_NEG: &str = "data.pos_is_neg";
/// A positive that occurs twice in one row.
pub const POS_REPEATED: &str = "data.pos_repeated";
/// A negative that occurs twice in one row.
pub const NEG_REPEATED: &str = "data.neg_repeated";
/// The query is also a positive of its row.
pub const QUERY_IS_POS: &str = "data.query_is_pos";
/// The query is also a negative of its row.
pub const QUERY_IS_NEG: &str = "data.query_is_neg";
/// A query that an earlier row has too.
pub const QUERY_REPEATED: &str = "data.query_repeated";
/// Positives that several rows share: false negatives inside a batch.
pub const POS_SHARED: &str = "data.pos_shared";
/// The bound of the duplicate search was reached.
pub const DUPLICATES_BOUNDED: &str = "data.duplicates_bounded";
/// Teacher scores are missing although distillation is on.
pub const SCORES_MISSING: &str = "data.scores_missing";
/// Some rows of a file have teacher scores and some have none.
pub const SCORES_PARTIAL: &str = "data.scores_partial";
/// A score list is shorter or longer than its texts.
pub const SCORES_MISCOUNTED: &str = "data.scores_miscounted";
/// A score is not a finite number.
pub const SCORE_NOT_FINITE: &str = "data.score_not_finite";
/// Task types differ within one file.
pub const TYPE_MIXED: &str = "data.type_mixed";
/// A task type without rules of its own.
pub const TYPE_UNKNOWN: &str = "data.type_unknown";
/// Task types have no effect outside same-dataset mode.
pub const TYPE_IGNORED: &str = "data.type_ignored";
/// `batch_size` of a file is 0.
pub const BATCH_SIZE: &str = "data.batch_size";
/// A symmetric task type halves a batch of one query to nothing.
pub const BATCH_HALVED_TO_NOTHING: &str = "data.batch_halved_to_nothing";
/// `train_group_size` of a file is 0.
pub const GROUP_SIZE: &str = "data.group_size";
/// `batch_size` or `train_group_size` differs between the rows of a file.
pub const SIZES_MIXED: &str = "data.sizes_mixed";
/// A query is compared with a single passage: the loss is always 0.
pub const SINGLE_CANDIDATE: &str = "data.single_candidate";
/// Some rows have a prompt and some have none.
pub const PROMPT_PARTIAL: &str = "data.prompt_partial";
/// Prompts of rows replace the instruction of the settings.
pub const PROMPT_REPLACES: &str = "data.prompt_replaces";
/// A text that is the word for "nothing" of some program (`None`, `nan`, `null`).
pub const TEXT_IS_NULL_WORD: &str = "data.text_is_null_word";
/// A text with U+FFFD, the trace of a wrong decoding.
pub const REPLACEMENT_CHARACTER: &str = "data.replacement_character";
/// Queries of the training data that are queries of the evaluation data.
pub const LEAK_QUERY: &str = "data.leak_query";
/// Positives of the training data that are documents of the evaluation data.
pub const LEAK_PASSAGE: &str = "data.leak_passage";
/// A file that is not read because of its name.
pub const FILE_IGNORED: &str = "data.file_ignored";
/// A file that is read twice.
pub const FILE_REPEATED: &str = "data.file_repeated";
/// The marker `no_in_batch_neg` has no effect here.
pub const MARKER_IGNORED: &str = "data.marker_ignored";
/// Rows of a file over `max_example_num_per_dataset` are left out.
pub const FILE_CAPPED: &str = "data.file_capped";
/// Small files are merged into one dataset.
pub const FILES_MERGED: &str = "data.files_merged";
/// Small files are left out.
pub const FILES_DROPPED: &str = "data.files_dropped";
/// A dataset smaller than one batch.
pub const DATASET_SMALL: &str = "data.dataset_small";
/// Rows that an epoch does not use.
pub const ROWS_LEFT_OUT: &str = "data.rows_left_out";
/// A file has no column of queries or of positives, or two of one.
pub const CONVERT_COLUMNS: &str = "convert.columns";
/// A column that a conversion has no use for.
pub const CONVERT_COLUMN_UNUSED: &str = "convert.column_unused";
/// A row that cannot be converted.
pub const CONVERT_ROW: &str = "convert.row";
/// A query without a positive.
pub const CONVERT_NO_POSITIVE: &str = "convert.no_positive";
/// Scores that belong to no single passage, or to some passages of a row only.
pub const CONVERT_SCORE_UNUSED: &str = "convert.score_unused";
/// A judged query without a text.
pub const CONVERT_UNKNOWN_QUERY: &str = "convert.unknown_query";
/// A judged document that is not in the corpus, or has no text there.
pub const CONVERT_UNKNOWN_DOCUMENT: &str = "convert.unknown_document";
/// An id that names two texts.
pub const CONVERT_REPEATED_ID: &str = "convert.repeated_id";
/// Judgments, queries or a corpus without the others.
pub const CONVERT_FILE_MISSING: &str = "convert.file_missing";
/// Rows of one query that were too far apart to be joined.
pub const CONVERT_GROUPS_BOUNDED: &str = "convert.groups_bounded";
/// A row that a repair could not mend.
pub const REPAIR_QUARANTINED: &str = "repair.quarantined";
/// A row that a repair dropped because an earlier one says the same.
pub const REPAIR_REPEATED: &str = "repair.repeated_row";
/// Pairs with scores, which are positives whatever their scores.
pub const CONVERT_PAIR_SCORES: &str = "convert.pair_scores";
/// Quotes in a table that may not be meant to enclose cells.
pub const CONVERT_QUOTES: &str = "convert.quotes";
/// A cell that looks like a list as Python prints it.
pub const CONVERT_LIST: &str = "convert.list";
