/** What is trained, by the name of FlagEmbedding's Python module. */
export type ModuleName =
  | "encoder_only.base"
  | "encoder_only.m3"
  | "decoder_only.base"
  | "decoder_only.icl"
  | "reranker.encoder_only.base";

export interface ModuleInfo {
  name: ModuleName;
  /** Whether this version of bge trains it. */
  available: boolean;
  reranker: boolean;
}

/** A setting's value. */
export type Setting = string | number | boolean | null | string[] | number[] | Record<string, unknown>;
/** All settings in one flat object, under FlagEmbedding's names. */
export type Config = Record<string, Setting>;
export type RenderFormat = "toml" | "json" | "flags" | "flagembedding" | "deepspeed";
export type Severity = "info" | "warning" | "error";

export interface Issue {
  /** Stable, never renamed. */
  code: string;
  severity: Severity;
  path?: string;
  /** Counted from 1. */
  line?: number;
  /** The number of the row, counted from 1, in a file that is a JSON array. */
  element?: number;
  field?: string;
  message: string;
}

export interface ParsedConfig {
  ok: boolean;
  module: ModuleName;
  /** null where the text could not be read. */
  config: Config | null;
  issues: Issue[];
}

export interface SchemaProperty {
  type: string | string[];
  description: string;
  minimum?: number;
  items?: { type: string; minimum?: number };
  enum?: (string | null)[];
  default?: Setting;
  /** The heading it belongs to. */
  "x-group": string;
  /** Whether only bge knows it. */
  "x-ours": boolean;
}

export interface ConfigSchema {
  title: string;
  type: "object";
  properties: Record<string, SchemaProperty>;
  required: string[];
  additionalProperties: false;
}

export interface Progress {
  bytes: number;
  rows: number;
  errors: number;
  warnings: number;
}

export interface Histogram {
  count: number;
  mean: number;
  min: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
  /** [largest value of the bar, how many]. */
  up_to: [number, number][];
}

export interface TextReport {
  characters: Histogram;
  /** Where tokens were counted. */
  tokens?: Histogram;
  max_tokens: number;
  cut_share?: number;
}

export interface IssueGroup {
  code: string;
  severity: Severity;
  total: number;
  first: Issue[];
}

export interface Places {
  total: number;
  first_lines: number[];
}

export interface FileReport {
  name: string;
  no_in_batch_neg: boolean;
  bytes: number;
  rows: number;
  broken_rows: number;
  blank_lines: number;
  crlf_lines: number;
  byte_order_mark: boolean;
  array: boolean;
  types: Record<string, number>;
  prompts: Record<string, number>;
  prompted: number;
  other_columns: Record<string, number>;
  positives: Histogram;
  negatives: Histogram;
  without_negatives: Places;
  unscored: Places;
  pos_scores: { count: number; min: number; max: number };
  neg_scores: { count: number; min: number; max: number };
  other_sizes: Places;
}

export interface DatasetReport {
  verdict: "ready" | "warnings" | "errors";
  rows: number;
  bytes: number;
  files: FileReport[];
  queries: TextReport;
  positives: TextReport;
  negatives: TextReport;
  distinct_queries: number;
  distinct_passages: number;
  duplicates_bounded: boolean;
  shared_positive_share: number;
  training: {
    world_size: number;
    same_dataset: boolean;
    datasets: {
      name: string;
      rows: number;
      queries_per_device: number;
      passages_per_query: number;
      in_batch_negatives: boolean;
      distilled: boolean;
      batches: number;
      left_out: number;
    }[];
    batches_per_epoch: number;
    steps_per_epoch: number;
    total_steps: number;
  };
  issues: IssueGroup[];
}

export interface RepairReport {
  rows: number;
  kept: number;
  mended: number;
  repeated: number;
  quarantined: number;
  duplicates_bounded: boolean;
  /** Mended rows by the code of what was wrong. */
  fixes: Record<string, number>;
  /** What was mended, dropped and set aside, with the first places of each kind. */
  issues: IssueGroup[];
}

export interface Excerpt {
  line: number;
  /** In a file that is a JSON array. */
  element?: number;
  text: string;
  cut: boolean;
}

export interface SplitReport {
  train: number;
  dev: number;
  /** Groups of rows that share a query or a positive. */
  groups: number;
  largest_group: number;
  /** Rows that cannot be trained on, whatever their scores; they are on neither side. */
  unreadable: number;
  /** Places where an array is damaged, or joined to another; the rows around them are read. */
  broken_arrays: number;
}

/** What a file holds. Of a BEIR folder, judgments (`qrels`) are pushed first, then queries, then the corpus. */
export type FileRole = "qrels" | "queries" | "corpus" | "table" | "rows";

export interface ConvertOptions {
  /** Join the rows of one query into one. */
  group?: boolean;
  /** Memory for rows that are held back for it, in bytes. */
  max_group_bytes?: number;
  /** Whether a quote at the beginning of a cell opens a quoted one; true if missing. */
  quotes?: boolean;
  /** Columns whose names are none of those that are known. */
  query?: string;
  positives?: string[];
  negatives?: string[];
  score?: string;
}

export interface ConvertReport {
  /** Rows, or judgments, that were read. */
  rows: number;
  written: number;
  /** Rows that joined an earlier one. */
  merged: number;
  quarantined: number;
  positives: number;
  negatives: number;
  /** Rows whose scores were left out. */
  scores_unused: number;
  /** Whether rows of one query may have stayed apart for want of memory. */
  groups_bounded: boolean;
  issues: IssueGroup[];
}

export interface LengthReport {
  rows: number;
  /** `to` is the length that is too large, null for the last range; `label` is for file names. */
  buckets: { from: number; to: number | null; rows: number; label: string }[];
  total_length: number;
  mean_length: number;
  longest: number;
  /** Rows shorter than the first length. */
  below: number;
  unreadable: number;
  /** Places where an array is damaged, or joined to another; the rows around them are read. */
  broken_arrays: number;
}

export interface PlanRequest {
  /** A name of `modelPresets()`, with or without its owner; if missing, `model_name_or_path`. */
  model?: string;
  /** The text of the model's config.json, which goes before the name. */
  config_json?: string;
  /** The text of a report, best with token counts. */
  report?: string;
  /** Devices that share a batch. */
  world_size?: number;
  /** What the devices share out: 0 nothing, 1 the optimizer, 2 also gradients, 3 also weights. */
  zero_stage?: 0 | 1 | 2 | 3;
  precision?: "f32" | "half";
  threads?: number;
  /** What a device has; without it nothing is said about fitting. */
  memory_gib?: number;
}

/** All sizes are bytes of one device. */
export interface Plan {
  parameters: { all: number; trained: number };
  fullest_batch: { texts: number; tokens: number; longest: number };
  memory: {
    weights: number;
    gradients: number;
    optimizer: number;
    activations: number;
    temporary: number;
    program: number;
    total: number;
  };
  memory_bytes: number | null;
  fits: boolean | null;
  /** Where it does not fit; `settings` is empty where none would do. `zero_stage` may be among them. */
  advice: { settings: Record<string, number | boolean>; total: number; message: string } | null;
  /** Where the data or `max_steps` says it. */
  total_steps: number | null;
  lengths_measured: boolean;
}
