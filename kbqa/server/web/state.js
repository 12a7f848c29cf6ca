// What several views need to know: how the service is, which bases there are, which one is in use.

import { call } from "./api.js";
import { keep, kept } from "./settings.js";

const BASE = "kbqa-base";
const listeners = [];

export const state = { status: null, bases: [], base: null };

export const onChange = (listener) => listeners.push(listener);

// `anew`: also what hardly ever changes.
export async function refresh(anew = false) {
  const [status, told] = await Promise.all([
    (!anew && state.status) || call("GET", "api/v1/status"),
    call("GET", "api/v1/kb"),
  ]);
  Object.assign(state, { status, bases: told.bases });
  choose(state.base ?? kept(BASE));
}

export function choose(name) {
  const there = (wanted) => state.bases.some((base) => base.name === wanted);
  const usual = state.status?.default;
  const filled = state.bases.find((base) => base.documents) ?? state.bases[0];
  const before = state.base;
  if (there(name)) state.base = name;
  else state.base = there(usual) && (has(usual) || !filled?.documents) ? usual : filled?.name ?? null;
  if (state.base && (before !== state.base || there(name))) keep(BASE, state.base);
  for (const listener of listeners) listener(state);
}

const has = (name) => state.bases.find((base) => base.name === name)?.documents > 0;

export const current = () => state.bases.find((base) => base.name === state.base) ?? null;
export const may = (scope) => {
  const scopes = ["read", "write", "admin"];
  return scopes.indexOf(state.status?.caller.scope) >= scopes.indexOf(scope);
};
