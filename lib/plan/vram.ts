/** What a model takes on a GPU beside its weights, before it is loaded; and budgets in the user's words. */
import type { NativeUnit, Program } from '../binding.ts'
import { invalidArgument, parseBytes, parsePercent } from '../options/validate.ts'
import { attendsOf, type LatentOp, latentsOf, mixtureBytes, rowBytes } from './program.ts'

/** Positions of a KV block: kKvBlockTokens in csrc/backend/backend.h. */
export const KV_BLOCK_TOKENS = 16
/** Rows of a launch of the decode kernels: kDecodeRows in cuda/linear.h. */
const DECODE_ROWS = 256
/** Of cuda/attention_decode.cu: positions that a part of a row covers at least, parts at most, CTAs that suffice. */
const PART_POSITIONS = 256
const MOST_PARTS = { least: 8, most: 32, ctas: 128, queriesOfOne: 8 }
/** For what is counted below in whole arrays: alignment, counters, tables. */
const MARGIN = { share: 1.02, bytes: 4 * 2 ** 20 }

export interface WorkspaceShape {
  maxRows: number
  maxLogitRows: number
  contextLength: number
}

/** What the GPU's executor allocates, a little more: as CudaExecutor's constructor does. test/gpu compares the two. */
export function workspaceBytes(
  program: Program,
  units: readonly NativeUnit[],
  { maxRows, maxLogitRows, contextLength }: WorkspaceShape,
): number {
  const decodeRows = Math.min(maxRows, DECODE_ROWS)
  // Gate and up that are one matrix leave their linear as one activation; two need room between.
  const matrices = (linears: number, types: number) => types === linears
  const fused = program.units.every(
    ({ linears }, index) =>
      !linears.some(({ glu }) => glu) || matrices(linears.length, units[index]?.types.length ?? 0),
  )
  const blocks = Math.ceil(contextLength / KV_BLOCK_TOKENS)
  // Of states a block a decode row, all of one sequence at most.
  const stride = program.kv.some(({ state = 0 }) => state > 0) ? Math.max(blocks, decodeRows) : blocks
  const tables = Math.max(1, program.kv.length) * 4 * stride
  const inputs = maxRows * (20 + tables + LOGIT_REQUEST_BYTES)
  const partials = Math.max(
    0,
    ...attendsOf(program).map(({ heads, kvHeads, headDim }) => {
      const tiles = kvHeads * Math.ceil(heads / kvHeads / MOST_PARTS.queriesOfOne)
      let mostParts = MOST_PARTS.least
      while (mostParts < MOST_PARTS.most && tiles * mostParts < MOST_PARTS.ctas) mostParts *= 2
      const parts = Math.min(Math.ceil(contextLength / PART_POSITIONS), mostParts)
      return parts > 1 ? decodeRows * heads * parts * (headDim + 2) * 4 : 0
    }),
  )
  const latents = Math.max(0, ...latentsOf(program).map((op) => latentBytes(op, maxRows, decodeRows, contextLength)))
  const entries = Math.min(program.vocab, LOGIT_TABLE.entries)
  const logits = maxLogitRows * (program.vocab * 4 + program.vocab / 8 + entries * LOGIT_TABLE.entryBytes)
  const ropes = program.ropes.reduce((sum, { headDim }) => sum + contextLength * headDim * 4, 0)
  const rows = maxRows * rowBytes(program, fused) + mixtureBytes(program, maxRows, fused)
  const all = rows + inputs + partials + latents + logits + ropes + units.length * 8
  return Math.ceil(all * MARGIN.share) + MARGIN.bytes
}

/** As latent_query_bytes() and latent_partial_bytes() in cuda/plan/latent.cc. */
const LATENTS = { queries: 32768, partBlocks: 512, parts: 32, partPositions: 64, headsOfBlock: 32 }

function latentBytes(
  { heads, rank, rotary }: LatentOp,
  rows: number,
  decodeRows: number,
  contextLength: number,
): number {
  const most = Math.max(1, Math.floor(LATENTS.queries / heads))
  const queries = Math.min(rows, most) * heads * (rank + rotary) * 2
  let partials = 0
  for (let context = 2 * LATENTS.partPositions; context < 2 * contextLength; context *= 2) {
    const parts = Math.min(Math.ceil(Math.min(context, contextLength) / LATENTS.partPositions), LATENTS.parts)
    if (parts === 1) continue
    const blocks = parts * Math.ceil(heads / LATENTS.headsOfBlock)
    const atOnce = Math.min(decodeRows, most, Math.max(1, Math.floor(LATENTS.partBlocks / blocks)))
    partials = Math.max(partials, atOnce * heads * parts * (rank + 2) * 4)
  }
  return queries + partials
}

const LOGIT_REQUEST_BYTES = 96
/** What penalties and biases come to, of each row, and what they take the place of: cuda/logit_stage.h. */
const LOGIT_TABLE = { entries: 8192, entryBytes: 20 }

/** A budget as options have it, of `whole` where it is a share. Throws INVALID_ARGUMENT. */
export function budgetBytes(name: string, budget: number | string, whole: number): number {
  if (typeof budget === 'number') return budget
  const share = parsePercent(budget)
  const bytes = share === undefined ? parseBytes(budget) : Math.floor(share * whole)
  if (bytes === undefined) throw invalidArgument(`bytes, a size such as '6GiB' or a share such as '80%'`, name, budget)
  return bytes
}
