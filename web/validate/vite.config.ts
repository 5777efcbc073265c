import { defineConfig } from 'vite';
import { pageConfig } from '../shared/vite.ts';

export default defineConfig(pageConfig('validate'));
