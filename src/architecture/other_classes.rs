//! Decoders that transformers has and no family here is. Their names are known, so `model_type` does not speak for them.

/// What stands before `ForCausalLM` in the names of the classes of transformers 5.24.
const STEMS: &str = "\
    AXK1 AXK2 Afmoe Apertus1p5Text Apertus Arcee AriaText BailingHybrid Bamba Bart Beam BigBird \
    BigBirdPegasus BioGpt BitNet Blenderbot BlenderbotSmall Bloom Blt Camembert CodeGen Cohere2Moe \
    CohereCompass CpmAnt Cwm Data2VecText Dbrx DeepseekV2 DeepseekV32 DeepseekV3 DeepseekV4 DiffLlama Doge \
    Dory Dots1 Dots3Note Electra Emu3 Ernie4_5_Moe Ernie ExaoneMoe Falcon FalconMamba FlexOlmo \
    Flint Fuyu GPTBigCode GPTJ GPTNeo GPTNeoXJapanese Gemma4Assistant \
    Gemma4UnifiedAssistant Gemma4Unified Git Glm4 Glm4Moe Glm4MoeLite Glm GlmMoeDsa \
    GraniteMoeSWA HYV3 HYV4 Helium HrmText HunYuanMoEV1 HyperCLOVAX Inkling2 \
    Inkling2Loop Inkling Jais2 Jamba JetMoe KimiLinear Kolibri1 Laguna LaraMini Llama4 \
    LongcatFlash MBart Mamba2 Mamba Marian MegatronBert Mellum MiMoV2Flash MiniCPM3 MiniMax MiniMaxM2 \
    MiniMaxM3VL Mixtral Mllama ModernBertDecoder Moshi Mpt Musicgen MusicgenMelody Mvp NanoChat Nemotron \
    OPT Olmo OlmoHybrid PLBart Pegasus Persimmon Phi4Multimodal Phimoe ProphetNet \
    Qwen3_5Moe Qwen4Exp RecurrentGemma RemBert RoCBert RoFormer Roberta \
    RobertaPreLayerNorm Rwkv SeedOss SolarOpen Starcoder2 TrOCR VaultGemma Whisper XGLM XLMRoberta \
    XLMRobertaXL Xmod Youtu Zamba2 Zamba Zaya xLSTM";

/// Names of another form.
const OTHERS: &str = "\
    BertGenerationDecoder BertLMHeadModel CTRLLMHeadModel Gemma3ForConditionalGeneration \
    Gemma3nForConditionalGeneration Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration \
    GotOcr2ForConditionalGeneration MossTranscribeDiarizeForConditionalGeneration OpenAIGPTLMHeadModel \
    ReformerModelWithLMHead XLMWithLMHeadModel XLNetLMHeadModel";

/// Whether a class is one of them.
pub(super) fn is_one(class: &str) -> bool {
    let stem = class.strip_suffix("ForCausalLM");
    stem.is_some_and(|stem| STEMS.split_whitespace().any(|s| s == stem)) || OTHERS.split_whitespace().any(|name| name == class)
}
