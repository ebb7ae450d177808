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
}

export interface Excerpt {
  line: number;
  text: string;
  cut: boolean;
}

export interface SplitReport {
  train: number;
  dev: number;
  /** Groups of rows that share a query or a positive. */
  groups: number;
  largest_group: number;
  /** Rows that cannot be read; they are on neither side. */
  unreadable: number;
}
