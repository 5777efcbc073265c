//! Shader permutations: a line-based preprocessor over the WGSL files, and nothing more.
//!
//! * `#import NAME` is replaced with `kernels/shared/NAME.wgsl` (once a shader, however often it is named);
//! * `#ifdef FLAG`, `#ifndef FLAG`, `#else`, `#endif` keep or drop lines.
//!
//! Sizes and features of a dispatch are pipeline-overridable constants or uniforms, never text.

use super::Flag;

/// A shader file before preprocessing.
#[derive(Debug)]
pub struct Shader {
    /// The file's name, without its extension: the kernel's name in errors and profiles.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Finds what it imports.
    pub imports: fn(&str) -> Option<&'static str>,
}

impl Shader {
    /// The text with `flags` set, and with the directives that the device needs on top.
    ///
    /// # Panics
    /// If the file does not preprocess: a defect that every kernel's test finds.
    pub fn expand(&self, flags: &[Flag]) -> String {
        let mut text = String::new();
        // Cooperative matrices hold f16, whatever the scheme's scales are.
        if flags.contains(&Flag::F16) || flags.contains(&Flag::Matrices) {
            text += "enable f16;\n";
        }
        // Browsers require this line; naga refuses it and needs none.
        if flags.contains(&Flag::Subgroups) && cfg!(target_arch = "wasm32") {
            text += "enable subgroups;\n";
        }
        if flags.contains(&Flag::Matrices) {
            text += "enable wgpu_cooperative_matrix;\n";
        }
        let names: Vec<_> = flags.iter().map(|f| f.name()).collect();
        text + &preprocess(self.name, self.text, &names, &self.imports).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// What can be wrong with a shader file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}.wgsl line {line}: {why}")]
pub struct ShaderError {
    /// The file, without its extension.
    pub file: String,
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// Expands `source` (called `file` in errors) with `flags` set; `import` finds shared files by name.
///
/// # Errors
/// On an unknown import or directive, or unbalanced conditions.
pub fn preprocess(
    file: &str,
    source: &str,
    flags: &[&str],
    import: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<String, ShaderError> {
    let mut out = String::with_capacity(source.len() * 2);
    expand(file, source, flags, import, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn expand(
    file: &str,
    source: &str,
    flags: &[&str],
    import: &dyn Fn(&str) -> Option<&'static str>,
    imported: &mut Vec<String>,
    out: &mut String,
) -> Result<(), ShaderError> {
    // One entry a nested condition: whether its lines are kept.
    let mut conditions: Vec<bool> = Vec::new();
    for (i, text) in source.lines().enumerate() {
        let fail = |why: String| ShaderError { file: file.into(), line: i + 1, why };
        let kept = conditions.iter().all(|c| *c);
        let Some(directive) = text.trim_start().strip_prefix('#') else {
            if kept {
                out.push_str(text);
                out.push('\n');
            }
            continue;
        };
        let (word, argument) = directive.trim().split_once(' ').unwrap_or((directive.trim(), ""));
        let argument = argument.trim();
        match word {
            "ifdef" => conditions.push(flags.contains(&argument)),
            "ifndef" => conditions.push(!flags.contains(&argument)),
            "else" => match conditions.last_mut() {
                Some(c) => *c = !*c,
                None => return Err(fail("#else without #ifdef".into())),
            },
            "endif" => {
                conditions.pop().ok_or_else(|| fail("#endif without #ifdef".into()))?;
            }
            "import" if !kept || imported.iter().any(|n| n == argument) => {}
            "import" => {
                let text = import(argument).ok_or_else(|| fail(format!("no shared shader {argument:?}")))?;
                imported.push(argument.into());
                expand(argument, text, flags, import, imported, out)?;
            }
            other => return Err(fail(format!("unknown directive #{other}"))),
        }
    }
    match conditions.len() {
        0 => Ok(()),
        n => Err(ShaderError { file: file.into(), line: source.lines().count(), why: format!("{n} #ifdef without #endif") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(source: &str, flags: &[&str]) -> Result<String, ShaderError> {
        preprocess("test", source, flags, &|name| (name == "shared").then_some("shared line\n#ifdef A\nshared a\n#endif"))
    }

    #[test]
    fn conditions_nest_and_imports_come_once() {
        let source =
            "#import shared\n#import shared\n#ifdef A\na\n#ifdef B\nab\n#else\na only\n#endif\n#else\nnot a\n#endif\nend";
        assert_eq!(run(source, &["A"]).unwrap(), "shared line\nshared a\na\na only\nend\n");
        assert_eq!(run(source, &["B"]).unwrap(), "shared line\nnot a\nend\n");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        assert_eq!(run("x\n#import nothing", &[]).unwrap_err().line, 2);
        assert!(run("#ifdef A", &[]).unwrap_err().why.contains("without #endif"));
        assert!(run("#else", &[]).is_err() && run("#endif", &[]).is_err() && run("#define X", &[]).is_err());
    }
}
