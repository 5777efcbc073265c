// Runs of 32 dimensions in a head, from the flags CHUNKS_2, CHUNKS_3, CHUNKS_4, CHUNKS_8 and CHUNKS_16: none of them is one.

#ifdef CHUNKS_2
const CHUNKS: u32 = 2u;
#else
#ifdef CHUNKS_3
const CHUNKS: u32 = 3u;
#else
#ifdef CHUNKS_4
const CHUNKS: u32 = 4u;
#else
#ifdef CHUNKS_8
const CHUNKS: u32 = 8u;
#else
#ifdef CHUNKS_16
const CHUNKS: u32 = 16u;
#else
const CHUNKS: u32 = 1u;
#endif
#endif
#endif
#endif
#endif
