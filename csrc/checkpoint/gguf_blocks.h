#pragma once
// The packed types of ggml: a row's elements in blocks, each with its scales. Layouts, bytes in the order of the file;
// f16 is IEEE's, nibbles low before high where elements 0..15 are low nibbles and 16..31 high ones:
//
//   blocks of 32 elements
//   Q4_0    f16 d; nibbles[16]                              d * (q - 8)
//   Q4_1    f16 d, m; nibbles[16]                           d * q + m
//   Q5_0    f16 d; u32 fifth bits; nibbles[16]              d * (q - 16)
//   Q5_1    f16 d, m; u32 fifth bits; nibbles[16]           d * q + m
//   Q8_0    f16 d; i8 q[32]                                 d * q
//   IQ4_NL  f16 d; nibbles[16]                              d * table[q]
//   MXFP4   u8 e; nibbles[16]                               2^(e - 127) * E2M1(q)
//
//   blocks of 256, of sub-blocks with scales of their own
//   Q2_K    u8 sc|m<<4 [16]; 2 bits[64]; f16 d, dmin        d * sc * q - dmin * m
//   Q3_K    third bits[32]; 2 bits[64]; 6 bits sc[16] in 12 bytes; f16 d    d * (sc - 32) * (q - 4)
//   Q4_K    f16 d, dmin; 6 bits sc[8], m[8] in 12 bytes; nibbles[128]       d * sc * q - dmin * m
//   Q5_K    f16 d, dmin; the same 12 bytes; fifth bits[32]; nibbles[128]    d * sc * q - dmin * m
//   Q6_K    low nibbles[128]; high 2 bits[64]; i8 sc[16]; f16 d             d * sc * (q - 32)
//   IQ4_XS  f16 d; high 2 bits of sc u16; low nibbles of sc[4]; nibbles[128]   d * (sc - 32) * table[q]
//   TQ1_0   5 base-3 digits[48]; 4 base-3 digits[4]; f16 d  d * (q - 1)
//   TQ2_0   2 bits[64]; f16 d                               d * (q - 1)
//
// Each is one of the codes of slabs: a block is taken apart into levels, and the fields of its groups and span, which
// are what slabs keep and what float32 is made of: a row of kBlocks. Products are exact in float32; a sum is rounded
// once, as every reader of the format rounds it.
#include <cstddef>
#include <cstdint>

#include "checkpoint/dtype.h"
#include "model/slab_layout.h"

namespace millrace {

// Of a type that is_packed(): its code, with the group that its blocks have.
MatrixCode code_of_blocks(DType type);

// The levels of a block, as slabs write them.
void unpack_block(DType type, const std::byte* block, uint8_t* levels);
// What group `group` of the block has, and the block of all its groups.
GroupField group_of_block(DType type, const std::byte* block, int group);
SpanField span_of_block(DType type, const std::byte* block);

// Elements of `blocks` blocks one after the other, not necessarily aligned, as float32. Not finite where a scale is
// not.
void decode_blocks(DType type, const std::byte* data, size_t blocks, float* out);

}  // namespace millrace
