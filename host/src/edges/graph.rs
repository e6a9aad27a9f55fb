//! Which function of a core module can be seen directly above which other on a stack.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use wasmparser::{ElementItems, ExternalKind, FuncType, Operator, Parser, Payload, TypeRef};

/// The call graph of a core module: direct calls, and indirect calls to whatever of the same type has its
/// address taken. Functions are known by their indices.
pub(super) struct Graph {
    /// Functions that the host may call.
    pub entries: HashSet<u32>,
    /// Bodies as whole-file offsets.
    pub bodies: HashMap<u32, Range<u64>>,
    above: HashMap<u32, HashSet<u32>>,
}

/// What a function's body can call.
#[derive(Default)]
struct Calls {
    direct: HashSet<u32>,
    by_type: HashSet<u32>,
}

#[derive(Default)]
struct Contents {
    types: Vec<FuncType>,
    /// Types of imported and then defined functions.
    functions: Vec<u32>,
    imported: u32,
    referenced: HashSet<u32>,
    entries: HashSet<u32>,
    bodies: Vec<Body>,
}

struct Body {
    range: Range<u64>,
    calls: Calls,
    tail_calls: Calls,
}

impl Graph {
    pub(super) fn of(wasm: &[u8]) -> Self {
        let contents = Contents::read(wasm);
        let numbered = || contents.bodies.iter().zip(contents.imported..).map(|(body, index)| (index, body));
        let tails: HashMap<u32, HashSet<u32>> =
            numbered().map(|(index, body)| (index, contents.targets(&body.tail_calls))).collect();
        // A tail call leaves its callee in the place of its caller.
        let replaced = |callees: HashSet<u32>| {
            let mut seen = callees.clone();
            let mut new: Vec<u32> = callees.into_iter().collect();
            while let Some(function) = new.pop() {
                new.extend(tails.get(&function).into_iter().flatten().filter(|&&next| seen.insert(next)));
            }
            seen
        };
        Self {
            above: numbered().map(|(i, body)| (i, replaced(contents.targets(&body.calls)))).collect(),
            bodies: numbered().map(|(index, body)| (index, body.range.clone())).collect(),
            entries: replaced(contents.entries.clone()),
        }
    }

    pub(super) fn has_edge(&self, caller: u32, callee: u32) -> bool {
        self.above.get(&caller).is_some_and(|callees| callees.contains(&callee))
    }
}

impl Contents {
    fn read(wasm: &[u8]) -> Self {
        let mut contents = Self::default();
        for payload in Parser::new(0).parse_all(wasm) {
            contents.section(payload.unwrap());
        }
        contents
    }

    fn section(&mut self, payload: Payload<'_>) {
        match payload {
            Payload::TypeSection(types) => {
                self.types = types.into_iter_err_on_gc_types().map(Result::unwrap).collect();
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let TypeRef::Func(ty) = import.unwrap().ty {
                        self.functions.push(ty);
                        self.imported += 1;
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                self.functions.extend(functions.into_iter().map(Result::unwrap));
            }
            Payload::ExportSection(exports) => {
                let exports = exports.into_iter().map(Result::unwrap);
                self.entries.extend(exports.filter(|e| e.kind == ExternalKind::Func).map(|e| e.index));
            }
            Payload::StartSection { func, .. } => {
                self.entries.insert(func);
            }
            Payload::ElementSection(elements) => {
                for element in elements {
                    match element.unwrap().items {
                        ElementItems::Functions(functions) => {
                            self.referenced.extend(functions.into_iter().map(Result::unwrap));
                        }
                        ElementItems::Expressions(_, expressions) => {
                            for expression in expressions {
                                self.references(expression.unwrap().get_operators_reader());
                            }
                        }
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                let (mut calls, mut tail_calls) = (Calls::default(), Calls::default());
                for operator in body.get_operators_reader().unwrap() {
                    match operator.unwrap() {
                        Operator::Call { function_index } => calls.direct.insert(function_index),
                        Operator::ReturnCall { function_index } => tail_calls.direct.insert(function_index),
                        Operator::CallIndirect { type_index, .. } => calls.by_type.insert(type_index),
                        Operator::ReturnCallIndirect { type_index, .. } => {
                            tail_calls.by_type.insert(type_index)
                        }
                        _ => false,
                    };
                }
                let range = body.range();
                self.bodies.push(Body { range: range.start as u64..range.end as u64, calls, tail_calls });
            }
            _ => {}
        }
    }

    fn references(&mut self, operators: wasmparser::OperatorsReader<'_>) {
        for operator in operators {
            if let Operator::RefFunc { function_index } = operator.unwrap() {
                self.referenced.insert(function_index);
            }
        }
    }

    fn ty(&self, function: u32) -> &FuncType {
        &self.types[self.functions[function as usize] as usize]
    }

    fn targets(&self, calls: &Calls) -> HashSet<u32> {
        let of_type = |ty: &u32| {
            let ty = &self.types[*ty as usize];
            self.referenced.iter().copied().filter(move |&function| self.ty(function) == ty)
        };
        calls.direct.iter().copied().chain(calls.by_type.iter().flat_map(of_type)).collect()
    }
}
